"""LIPO inside EasyR1: docs/easyr1.md."""

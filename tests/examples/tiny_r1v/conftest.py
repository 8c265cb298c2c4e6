"""Whichever of these tests imports verl first, it does so on the CPU platform."""

import os

os.environ.setdefault("VERL_PLATFORM", "cpu")

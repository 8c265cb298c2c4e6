"""Does a training run fit, and how long does it take? ``python -m examples.tiny_r1v.size``."""

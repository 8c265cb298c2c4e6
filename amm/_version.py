"""Version of the package, as written into merge reports."""

__version__ = "0.1.0"

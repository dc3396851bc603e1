"""Version, in a place of its own that everything may import."""

__version__ = "0.1.0"

"""The version, for people and for build tools alike; every other place reads it from here."""

__version__ = "0.1.0"

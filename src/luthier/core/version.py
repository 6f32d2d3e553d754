"""The version, in the one place that every room may look at."""

VERSION = "0.1.0"

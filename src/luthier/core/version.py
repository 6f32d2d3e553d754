"""The versions of Luthier and of the oldest torch, in the one place that every room may look at."""

VERSION = "0.1.0"
OLDEST_TORCH = "2.7"  # that the tests ran with, but for exports: docs/install.md

"""A run as a plain PyTorch project."""

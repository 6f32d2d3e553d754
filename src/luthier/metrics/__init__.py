"""Losses, metrics and figures."""

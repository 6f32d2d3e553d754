"""Checks for mistakes that raise no error."""

"""Mistakes that raise no error: rules, monitors, watch."""

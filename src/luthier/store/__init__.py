"""Bundles, checkpoints and files that are whole or not there."""

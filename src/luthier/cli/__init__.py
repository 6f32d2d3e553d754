"""The command: options, what it prints, exit status."""

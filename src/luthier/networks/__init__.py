"""Families of networks, and the rules that choose one."""

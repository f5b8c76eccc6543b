"""Flags, and how a command begins and ends."""

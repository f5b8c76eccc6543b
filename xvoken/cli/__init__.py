"""Shared flags of commands, and how a command starts and ends."""

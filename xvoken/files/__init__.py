"""What lies on the disk: safe writing, locks, and one module a format."""

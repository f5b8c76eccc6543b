"""Files on disk: safe writing, locks, and one module for each format."""

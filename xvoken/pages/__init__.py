"""Static pages of what was retrieved: HTML that opens from disk, with its data beside it, and without a network."""

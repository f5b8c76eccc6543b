"""The rows of largest inner product."""

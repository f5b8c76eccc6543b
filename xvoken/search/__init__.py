"""Search for the keys of largest inner product, exact and approximate."""

"""Towers, heads, and the encoders made of them."""

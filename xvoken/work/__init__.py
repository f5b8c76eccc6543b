"""Long work in parts, and what a stage makes of it."""

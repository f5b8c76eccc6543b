"""Long work cut into parts, and the files that a stage joins from them."""

"""What frozen towers made of texts and pictures, computed once."""

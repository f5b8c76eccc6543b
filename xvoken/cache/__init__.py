"""The outputs of frozen towers for texts and pictures, computed once and kept on disk."""

"""Questions asked one at a time: a sentence or a picture, answered from keys that stay loaded."""

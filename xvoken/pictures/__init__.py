"""Finding pictures, and decoding them to the pixels that a tower takes."""

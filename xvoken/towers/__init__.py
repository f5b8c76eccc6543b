"""What turns a sentence or a picture into numbers: pretrained models of several libraries, by name."""

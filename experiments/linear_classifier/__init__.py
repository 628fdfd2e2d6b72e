"""A linear softmax classifier on handwritten digits."""

"""The fused head: the loss of hidden @ kernel + bias, a chunk of tokens at a time."""

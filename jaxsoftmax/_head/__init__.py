"""The fused head: losses, statistics and distillation of hidden @ kernel + bias, never with all logits."""

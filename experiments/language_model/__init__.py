"""A small transformer trained with the fused head and with a loss of all logits."""

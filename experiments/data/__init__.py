"""What the experiments learn from: handwritten digits, a table of sums, text."""

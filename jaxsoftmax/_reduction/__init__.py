"""How rows are reduced: a schedule per platform for the equations of `_math`, and the derivative rules."""

"""A teacher's probabilities as float labels."""

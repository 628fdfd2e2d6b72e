"""Users' programs with their loss's import line replaced."""

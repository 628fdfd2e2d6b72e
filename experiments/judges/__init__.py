"""What an experiment measures a result with: 50 digits, and how confident a classifier is."""

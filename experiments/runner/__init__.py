"""What every experiment shares: its command line, progress, results, checkpoints and processes."""

"""Three programs that train on digits as users write them; `drop_in` swaps the import line of each one's loss."""

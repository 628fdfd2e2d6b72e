"""What the site says that a file of the repository already knows: one module for each kind of it."""

"""Where each formula for the loss loses its accuracy."""

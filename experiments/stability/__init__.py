"""Where each way of writing the loss ends."""

"""Every way of differentiating gives one matrix."""

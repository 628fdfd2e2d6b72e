"""The curvature of a loss that keeps float32's accuracy for confident digits."""

"""What the head over a mesh costs each device."""

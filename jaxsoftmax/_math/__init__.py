"""Equations of one row and one token, as plain jnp: no platform, no threshold of size, no barrier stands here."""

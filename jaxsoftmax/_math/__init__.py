"""Equations of one row and one token, as plain jnp: no choice by platform or size, no barrier stands here.

Two selects, marked jax#39103, change no value: they end a fusion in which jaxlib 0.10.2 adds up wrong entries.
"""

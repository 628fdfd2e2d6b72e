"""Generates parts of the site from files of the repository."""

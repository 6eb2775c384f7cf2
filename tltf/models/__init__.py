"""Heads, and the one function that builds input -> backbone -> head."""

"""The stages of a run: each reads what the one before committed, and commits its own part."""

"""Recipes of the literature as absl binaries: ``python -m experiments.NAME --help``."""

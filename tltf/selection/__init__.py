"""Choosing: which backbone, how deep, which learning rate, from features that are there already."""

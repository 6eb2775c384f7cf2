"""Signatures, export, parity check and atomic publishing of SavedModels."""

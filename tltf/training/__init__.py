"""Freezing, phases, optimizers, the loop and its states, callbacks."""

"""Weights on their way into storage and out of it."""

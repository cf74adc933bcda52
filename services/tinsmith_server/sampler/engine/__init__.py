"""Continuous batching of the Llama family."""

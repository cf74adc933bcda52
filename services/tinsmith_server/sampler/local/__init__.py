"""Sampling in this process: one torch thread for the engine and for models that run alone."""

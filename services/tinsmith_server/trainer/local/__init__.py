"""Training in this process: one torch thread, many adapters on shared base models."""

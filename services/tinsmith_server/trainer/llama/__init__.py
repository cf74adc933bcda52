"""Our own forward pass of the Llama family for training."""

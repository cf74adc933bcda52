"""From logits to tokens, and where answers end."""

"""The services of Tinsmith: LLM post-training as processes that speak gRPC."""

"""The sampler: answers and logprobs from language models, with or without adapters."""

from tinsmith_server.sampler.room import ROOM

__all__ = ["ROOM"]

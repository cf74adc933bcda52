"""The `tinker` backend: answers come from the hosted Tinker API, or any server that speaks it."""

from tinsmith_server.sampler.tinker.backend import TinkerBackend

__all__ = ["TinkerBackend"]

"""The `tinker` backend: models are trained by the hosted Tinker API, or any server that speaks it."""

from tinsmith_server.trainer.tinker.backend import TinkerBackend

__all__ = ["TinkerBackend"]

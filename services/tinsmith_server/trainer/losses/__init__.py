"""Losses: one a file. All are sums over tokens."""

from tinsmith_server.trainer.losses.base import Columns, Loss
from tinsmith_server.trainer.losses.cross_entropy import CrossEntropy
from tinsmith_server.trainer.losses.importance_sampling import ImportanceSampling
from tinsmith_server.trainer.losses.ppo import Ppo

LOSSES = (CrossEntropy.name, ImportanceSampling.name, Ppo.name)
"""Names of those that work, as `LossSpec` has them."""

__all__ = ["LOSSES", "Columns", "CrossEntropy", "ImportanceSampling", "Loss", "Ppo"]

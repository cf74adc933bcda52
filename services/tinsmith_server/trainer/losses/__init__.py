"""Losses: one a file. All are sums over tokens."""

from tinsmith_server.trainer.losses.base import Columns, Loss
from tinsmith_server.trainer.losses.cispo import Cispo
from tinsmith_server.trainer.losses.cross_entropy import CrossEntropy
from tinsmith_server.trainer.losses.dro import Dro
from tinsmith_server.trainer.losses.gspo import Gspo
from tinsmith_server.trainer.losses.importance_sampling import ImportanceSampling
from tinsmith_server.trainer.losses.ppo import Ppo

LOSSES = (*(loss.name for loss in (CrossEntropy, ImportanceSampling, Ppo, Cispo, Dro, Gspo)), "custom")
"""Names of those that work, as `LossSpec` has them; "custom" is that of `loss_graph`."""

__all__ = ["LOSSES", "Cispo", "Columns", "CrossEntropy", "Dro", "Gspo", "ImportanceSampling", "Loss", "Ppo"]

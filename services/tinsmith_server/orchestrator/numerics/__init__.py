"""The arithmetic of post-training: what recipes compute and NumericsService offers. Arrays in, arrays out.

Arithmetic is in float64, whatever comes in. Errors: InvalidArgument with reason NOT_FINITE.
"""

from tinsmith_server.orchestrator.numerics.discounted_sums import discounted_sums
from tinsmith_server.orchestrator.numerics.finite import check_finite, float32
from tinsmith_server.orchestrator.numerics.generalized_advantages import generalized_advantages
from tinsmith_server.orchestrator.numerics.group_advantages import group_advantages, is_constant, of_uneven_groups
from tinsmith_server.orchestrator.numerics.kl_metrics import KlMetrics, entropy, kl_metrics
from tinsmith_server.orchestrator.numerics.mean_nll import mean_nll
from tinsmith_server.orchestrator.numerics.preference import PreferenceLoss, dpo_loss, log_sigmoid

__all__ = [
    "KlMetrics",
    "PreferenceLoss",
    "check_finite",
    "discounted_sums",
    "dpo_loss",
    "entropy",
    "float32",
    "generalized_advantages",
    "group_advantages",
    "is_constant",
    "kl_metrics",
    "log_sigmoid",
    "mean_nll",
    "of_uneven_groups",
]

"""Regularizers: one a file."""

from collections.abc import Mapping

from tinsmith_server.trainer.regularizers.base import Regularizer, Seen
from tinsmith_server.trainer.regularizers.consistency import Consistency
from tinsmith_server.trainer.regularizers.elastic_net import ElasticNet
from tinsmith_server.trainer.regularizers.entropy import Entropy
from tinsmith_server.trainer.regularizers.gradient_penalty import GradientPenalty
from tinsmith_server.trainer.regularizers.js import JS
from tinsmith_server.trainer.regularizers.kl import KL
from tinsmith_server.trainer.regularizers.l1 import L1
from tinsmith_server.trainer.regularizers.l2 import L2
from tinsmith_server.trainer.regularizers.orthogonality import Orthogonality
from tinsmith_server.trainer.regularizers.output_magnitude import OutputMagnitude
from tinsmith_server.trainer.regularizers.settings import LARGEST, bad, made
from tinsmith_server.trainer.regularizers.term import Term

REGULARIZERS: Mapping[str, type[Regularizer]] = {
    kind.kind: kind
    for kind in (
        L1,
        L2,
        ElasticNet,
        Entropy,
        KL,
        JS,
        Consistency,
        Orthogonality,
        GradientPenalty,
        OutputMagnitude,
    )
}
"""By the contract's names in lower case."""

__all__ = ["LARGEST", "REGULARIZERS", "GradientPenalty", "Regularizer", "Seen", "Term", "bad", "made"]

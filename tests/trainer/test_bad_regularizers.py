"""Regularizers that a call can't have are refused, and leave nothing."""

import math

import numpy as np
import pytest

from tests.trainer.calls import ROWS, batch, create, forward_backward, optim_step
from tests.trainer.models import batch as random_batch
from tests.trainer.models import trained
from tests.trainer.regularizer_calls import VOCABULARY, columns, regularized, sparse_reference
from tests.trainer.regularizer_cases import FULL, TOKENS, message
from tests.trainer.test_custom_losses import mean_square
from tests.trainer.test_oracle_matrix import FORMS, call, on_the_wire
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged
from tinsmith.trainer.v1 import LossSpec, Regularizer
from tinsmith.types.v1 import Column
from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer.losses import CrossEntropy
from tinsmith_server.trainer.regularizers import term

BAD: dict[str, tuple[LossSpec, dict[str, Column], str, dict[str, str]]] = {
    "twice": (
        regularized(message(TOKENS, "l1", {}, {}), message(TOKENS, "l2", {}, {})),
        {},
        "BAD_REGULARIZER",
        {"regularizer": "r"},
    ),
    "option": (
        regularized(Regularizer(name="r", kind="REGULARIZER_KIND_L1", options={"beta": 1})),
        {},
        "BAD_REGULARIZER",
        {"regularizer": "r", "setting": "beta"},
    ),
    "option beyond float32": (
        regularized(Regularizer(name="r", kind="REGULARIZER_KIND_L2", options={"clip": 1e39})),
        {},
        "BAD_REGULARIZER",
        {"regularizer": "r", "setting": "clip"},
    ),
    "weight beyond float32": (
        regularized(*(Regularizer(name=name, kind="REGULARIZER_KIND_L1", weight=1e39) for name in "rs")),
        {},
        "BAD_REGULARIZER",
        {"regularizer": "r", "setting": "weight"},
    ),
    "infinite distance": (
        regularized(message(FULL, "consistency", {}, {})),
        {"reference": sparse_reference(3, -math.inf)},
        "BAD_REGULARIZER",
        {"regularizer": "r", "setting": "metric"},
    ),
    "choice": (
        regularized(Regularizer(name="r", kind="REGULARIZER_KIND_L1", choices={"over": "world"})),
        {},
        "BAD_REGULARIZER",
        {"regularizer": "r", "setting": "over"},
    ),
    "not over the vocabulary": (
        regularized(Regularizer(name="r", kind="REGULARIZER_KIND_GRADIENT_PENALTY", choices={"over": "vocabulary"})),
        {},
        "BAD_REGULARIZER",
        {"regularizer": "r", "setting": "over"},
    ),
    "no reference": (
        regularized(Regularizer(name="r", kind="REGULARIZER_KIND_JS", choices={"over": "vocabulary"})),
        {},
        "BAD_REGULARIZER",
        {"regularizer": "r", "setting": "reference"},
    ),
    "needless reference": (
        regularized(Regularizer(name="r", kind="REGULARIZER_KIND_L1", reference="weights")),
        {},
        "BAD_REGULARIZER",
        {"regularizer": "r", "setting": "reference"},
    ),
    "distribution of one target": (
        regularized(Regularizer(name="r", kind="REGULARIZER_KIND_ENTROPY")),
        {},
        "BAD_REGULARIZER",
        {"regularizer": "r"},
    ),
    "sampled tokens of a distribution": (
        regularized(message(FULL, "kl", {}, {"estimator": "k3"})),
        {"reference": columns(FULL)["reference"]},
        "BAD_REGULARIZER",
        {"regularizer": "r"},
    ),
    "reference missing": (
        regularized(message(TOKENS, "kl", {}, {})),
        {},
        "MISSING_LOSS_INPUT",
        {"column": "reference"},
    ),
    "mask missing": (
        regularized(Regularizer(name="r", kind="REGULARIZER_KIND_L1", choices={"mask": "prompt"})),
        {},
        "MISSING_LOSS_INPUT",
        {"column": "prompt"},
    ),
    "reference of another width": (
        regularized(message(FULL, "kl", {}, {})),
        {"reference": columns(FULL, VOCABULARY - 1)["reference"]},
        "BAD_TENSOR",
        {"column": "reference"},
    ),
    "reference of tokens": (
        regularized(message(FULL, "kl", {}, {})),
        {"reference": columns(TOKENS)["reference"]},
        "BAD_TENSOR",
        {"column": "reference"},
    ),
    "reference that is nan": (
        regularized(message(TOKENS, "kl", {}, {})),
        {"reference": Column(ragged=ragged([[math.nan] * len(row) for row in ROWS], np.float32))},
        "NON_FINITE_INPUT",
        {"column": "reference", "datum": "0"},
    ),
    "reference that pads with nan": (
        regularized(message(FULL, "kl", {}, {})),
        {"reference": sparse_reference(3, math.nan)},
        "NON_FINITE_INPUT",
        {"column": "reference"},
    ),
    "reference that pads with what float32 does not have": (
        regularized(message(FULL, "kl", {}, {})),
        {"reference": sparse_reference(0, -1e300)},
        "BAD_TENSOR",
        {"column": "reference"},
    ),
    "reference without any probability": (
        regularized(message(FULL, "kl", {}, {})),
        {"reference": sparse_reference(0, -math.inf)},
        "BAD_TENSOR",
        {"column": "reference", "datum": "0"},
    ),
    "gradient of a loss that is no sum": (
        regularized(Regularizer(name="r", kind="REGULARIZER_KIND_GRADIENT_PENALTY"), custom=mean_square()),
        {},
        "BAD_REGULARIZER",
        {"regularizer": "r"},
    ),
    "negative weight": (
        regularized(Regularizer(name="r", kind="REGULARIZER_KIND_L1", weight=-1)),
        {},
        "INVALID_REQUEST",
        {},
    ),
    "no name": (regularized(Regularizer(kind="REGULARIZER_KIND_L1")), {}, "INVALID_REQUEST", {}),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_regularizers_are_refused_and_leave_nothing(suite: Suite, case: str) -> None:
    """R-03"""
    loss, given, reason, metadata = BAD[case]
    data = batch(**given)
    if loss.WhichOneof("loss") == "custom":
        del data.loss_inputs["weights"]
    model = await create(suite)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.ForwardBackward(forward_backward(model, loss=loss, batch=data))
    assert (refused.value.code.name, refused.value.reason) == ("INVALID_ARGUMENT", reason)
    assert dict(refused.value.metadata) == metadata
    with pytest.raises(TinsmithError) as no_gradients:
        await suite.trainer.OptimStep(optim_step(model))
    assert no_gradients.value.reason == "NO_GRADIENTS"


def test_orthogonality_of_a_large_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(term, "MOST_ROWS", 39)
    data = on_the_wire(random_batch(CrossEntropy()), FORMS[0])
    for axis, rows in (("vocabulary", "97"), ("sequence", "40")):
        regularizer = message(FULL, "orthogonality", {}, {"axis": axis})
        with pytest.raises(InvalidArgument) as refused:
            trained("qwen3").forward_backward(call(regularized(regularizer), data))
        assert refused.value.reason == "BATCH_TOO_LARGE"
        assert refused.value.metadata["rows"] == rows


def test_orthogonality_of_many_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them small: a datum of one token is a few bytes, its rows' products are 512 MB."""
    data = on_the_wire(random_batch(CrossEntropy()), FORMS[0])
    loss = regularized(message(FULL, "orthogonality", {}, {"axis": "vocabulary"}))
    pairs = 97 * 97 * (len(data.tokens.offsets) // 8 - 1)
    monkeypatch.setattr(term, "MOST_PAIRS", pairs - 1)
    with pytest.raises(InvalidArgument) as refused:
        trained("qwen3").forward_backward(call(loss, data))
    assert refused.value.reason == "BATCH_TOO_LARGE"
    monkeypatch.setattr(term, "MOST_PAIRS", pairs)
    trained("qwen3").forward_backward(call(loss, data))

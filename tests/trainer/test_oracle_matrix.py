"""Every loss, with each form that its columns may have on the wire, against plain autograd on the same `transformers`
model; custom graphs and regularizers too."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tests.trainer.graphs import builtin
from tests.trainer.models import VOCABULARY, Peft, batch, trained
from tests.trainer.regularizer_cases import FULL, TOKENS, TOP_K, message
from tests.trainer.test_against_peft import assert_alike, gradients
from tinsmith.arrays import ragged_of
from tinsmith.trainer.v1 import ForwardBackwardRequest, LossSpec, Regularizer
from tinsmith.types.v1 import Column, DatumBatch, SparseRaggedTensor
from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer import wire
from tinsmith_server.trainer.losses import Cispo, CrossEntropy, Dro, Gspo, ImportanceSampling, Ppo
from tinsmith_server.trainer.ragged import Array, Ragged
from tinsmith_server.trainer.request import Batch, TrainingCall

LOSSES: Mapping[str, Any] = {
    "cross_entropy": CrossEntropy(),
    "importance_sampling": ImportanceSampling(),
    "ppo": Ppo(clip_low=0.5, clip_high=3.0),
    "cispo": Cispo(clip_low=0.8, clip_high=1.2),
    "dro": Dro(beta=0.2),
    "gspo": Gspo(clip_low=0.9, clip_high=1.1),
}
FORMS = ["dense, one target", "dense, K targets", "sparse weights, K targets", "sparse, K targets"]


def dense(column: Ragged) -> Column:
    return Column(ragged=ragged_of(column.values, column.offsets))


def sparse(column: Ragged, stored: Array) -> Column:
    """The entries where `stored`; those elsewhere must be 0."""
    values = column.values
    tokens, places = np.nonzero(stored)
    return Column(
        sparse=SparseRaggedTensor(
            dtype=1 if values.dtype.kind == "f" else 3,
            offsets=column.offsets.astype("<i8").tobytes(),
            entries=np.searchsorted(tokens, np.arange(len(values) + 1)).astype("<i8").tobytes(),
            columns=places.astype("<i8").tobytes(),
            data=values[tokens, places].tobytes(),
            width=values.shape[1],
        )
    )


def on_the_wire(data: Batch, form: str) -> DatumBatch:
    columns = {name: column for name, column in data.columns.items() if isinstance(column, Ragged)}
    stored = columns["weights"].values != 0 if "weights" in columns else None
    found = {}
    for name, column in columns.items():
        is_sparse = name == "weights" or (name == "target_tokens" and form == FORMS[3])
        if form.startswith("sparse") and is_sparse:
            assert stored is not None
            found[name] = sparse(column, stored)
        else:
            found[name] = dense(column)
    tokens = ragged_of(data.tokens.values.astype(np.int32), data.tokens.offsets)
    return DatumBatch(tokens=tokens, loss_inputs=found)


def call(spec: LossSpec, data: DatumBatch, **fields: Any) -> TrainingCall:
    return wire.training_call(ForwardBackwardRequest(model_id="m", loss=spec, batch=data, **fields))


def spec_of(name: str, *, as_graph: bool) -> LossSpec:
    settings = asdict(LOSSES[name])
    return LossSpec(custom=builtin(name, **settings)) if as_graph else LossSpec(**{name: settings})


def data_of(name: str, form: str) -> Batch:
    """A batch whose targets that are not stored are token 0."""
    data = batch(LOSSES[name], targets_a_token=None if form == FORMS[0] else 3)
    if form == FORMS[3]:
        weights, targets = data.columns["weights"], data.columns["target_tokens"]
        targets.values[weights.values == 0] = 0
    return data


@pytest.mark.parametrize("as_graph", [False, True], ids=["builtin", "graph"])
@pytest.mark.parametrize(
    ("name", "form"), [(name, FORMS[0]) for name in LOSSES] + [("cross_entropy", form) for form in FORMS[1:]]
)
def test_losses_are_those_of_autograd_on_transformers(name: str, form: str, as_graph: bool) -> None:
    """T-09, T-10, N-24"""
    ours, data = trained("qwen3"), data_of(name, form)
    theirs = Peft.of("qwen3", ours)
    result = ours.forward_backward(call(spec_of(name, as_graph=as_graph), on_the_wire(data, form)))
    value, logprobs = theirs.forward_backward(data, LOSSES[name])
    assert result.logprobs is not None
    assert result.metrics["loss:sum"] == pytest.approx(value, rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(result.logprobs.values, logprobs, atol=1e-5)
    assert_alike(gradients(ours), {n: value.grad for n, value in Peft.parameters(theirs.model).items()})


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cross_entropy"])
def test_policy_losses_take_one_target_a_token(name: str) -> None:
    ours = trained("qwen3")
    data = on_the_wire(batch(LOSSES[name], targets_a_token=3), FORMS[1])
    with pytest.raises(InvalidArgument) as refused:
        ours.forward_backward(call(spec_of(name, as_graph=False), data))
    assert (refused.value.reason, refused.value.metadata["column"]) == ("BAD_TENSOR", "target_tokens")


def objective_by_autograd(
    theirs: Peft, data: Batch, penalty: Callable[[Tensor, Tensor, list[int]], Tensor]
) -> tuple[float, float]:
    """Cross-entropy plus 0.3 times a penalty of the targets' and all logprobs; both values."""
    lengths = data.tokens.lengths.tolist()
    rows = torch.from_numpy(data.tokens.values).split(lengths)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    logits = theirs.model(input_ids=pad_sequence(rows, batch_first=True), attention_mask=mask).logits
    full = torch.log_softmax(logits, -1)[mask.bool()]
    targets = torch.from_numpy(data.columns["target_tokens"].values)
    picked = full.gather(-1, targets.view(len(targets), -1)).view(targets.shape)
    base = -(torch.from_numpy(data.columns["weights"].values) * picked).sum()
    added = penalty(picked, full, lengths)
    (base + 0.3 * added).backward()
    return float(base.detach()), float(added.detach())


def by_data(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, list[int]], Tensor]:
    return lambda x, lengths: torch.stack([function(part) for part in x.split(lengths)]).sum()


def gram(x: Tensor) -> Tensor:
    rows = x / x.norm(dim=1, keepdim=True)
    return ((rows @ rows.T) * (1 - torch.eye(len(rows)))).square().sum()


PENALTIES: Mapping[str, tuple[str, Regularizer, Callable[[Tensor, Tensor, list[int], Tensor], Tensor]]] = {
    "l2 around the mean": (
        TOKENS,
        message(TOKENS, "l2", {}, {"around": "mean"}),
        lambda p, full, lengths, q: by_data(lambda x: (x - x.mean()).square().sum())(p, lengths),
    ),
    "k3": (
        TOKENS,
        message(TOKENS, "kl", {}, {}),
        lambda p, full, lengths, q: ((q - p).exp() - 1 - (q - p)).sum(),
    ),
    "magnitude": (
        TOKENS,
        message(TOKENS, "output_magnitude", {"target_norm": 3.0}, {}),
        lambda p, full, lengths, q: by_data(lambda x: (x.norm() - 3).square())(p, lengths),
    ),
    "js of targets": (
        TOP_K,
        message(TOP_K, "js", {}, {}),
        lambda p, full, lengths, q: jensen_shannon(p.softmax(-1), q.softmax(-1)),
    ),
    "orthogonal targets": (
        TOP_K,
        message(TOP_K, "orthogonality", {}, {}),
        lambda p, full, lengths, q: by_data(gram)(p, lengths),
    ),
    "entropy": (
        FULL,
        message(FULL, "entropy", {}, {}),
        lambda p, full, lengths, q: (full.exp() * full).sum(),
    ),
    "reverse kl": (
        FULL,
        message(FULL, "kl", {}, {"direction": "reverse"}),
        lambda p, full, lengths, q: (q.exp() * (q - full)).sum(),
    ),
    "cosine": (
        FULL,
        message(FULL, "consistency", {}, {"metric": "cosine"}),
        lambda p, full, lengths, q: sum(
            1 - torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)
            for a, b in zip(full.split(lengths), q.split(lengths), strict=True)
        ),
    ),
}


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    m = (p + q) / 2
    return ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2


@pytest.mark.parametrize(
    ("family", "micro_batch_tokens", "case"),
    [("qwen3", tokens, case) for tokens in (4096, 20) for case in PENALTIES]
    + [("gpt2", 20, "reverse kl"), ("llama", 20, "js of targets")],
)
def test_regularizers_are_those_of_autograd_on_transformers(family: str, micro_batch_tokens: int, case: str) -> None:
    """R-03"""
    over, regularizer, penalty = PENALTIES[case]
    ours = trained(family, micro_batch_tokens=micro_batch_tokens)
    theirs = Peft.of(family, ours)
    data = batch(CrossEntropy(), targets_a_token=3 if over == TOP_K else None)
    wire_data, reference = on_the_wire(data, FORMS[0]), None
    if regularizer.reference:
        tokens = len(data.tokens.values)
        shape = {TOKENS: (tokens,), TOP_K: (tokens, 3), FULL: (tokens, VOCABULARY)}[over]
        reference = torch.randn(shape, generator=torch.Generator().manual_seed(0)) - 4
        reference = reference.log_softmax(-1) if over == FULL else reference
        column = Ragged(values=reference.numpy(), offsets=data.tokens.offsets)
        wire_data.loss_inputs["reference"].CopyFrom(dense(column))
    regularizer.weight = 0.3
    spec = LossSpec(cross_entropy={}, regularizers=[regularizer])
    result = ours.forward_backward(call(spec, wire_data))
    base, added = objective_by_autograd(
        theirs,
        data,
        lambda p, full, lengths: penalty(p, full, lengths, reference),  # type: ignore[arg-type]
    )
    assert result.regularizers[0].value == pytest.approx(added, rel=1e-5, abs=1e-5)
    assert result.metrics["loss:sum"] == pytest.approx(base + 0.3 * added, rel=1e-5)
    assert_alike(gradients(ours), {n: value.grad for n, value in Peft.parameters(theirs.model).items()}, 2e-5)

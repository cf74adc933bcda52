"""A bad call in the middle of a good sequence is told what is wrong, and the sequence ends where it ends without it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import pytest

from tests.trainer.calls import ADAM, CROSS_ENTROPY, ROWS, batch, create, datum_list, forward_backward, optim_step
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged
from tinsmith.trainer.v1 import (
    AdamParams,
    CreateModelRequest,
    CustomLoss,
    ForwardBackwardRequest,
    ForwardRequest,
    ImportanceSamplingLoss,
    LoadStateRequest,
    LossNode,
    LossSpec,
    Model,
    OptimStepRequest,
    Regularizer,
    RegularizerKind,
    SaveForSamplerRequest,
    SaveStateRequest,
)
from tinsmith.types.v1 import AudioChunk, Column, DatumList, ImageChunk, InputChunk

Request = (
    ForwardRequest
    | ForwardBackwardRequest
    | OptimStepRequest
    | SaveStateRequest
    | SaveForSamplerRequest
    | LoadStateRequest
    | CreateModelRequest
)
POLICY = LossSpec(importance_sampling=ImportanceSamplingLoss())
CONTEXT, VOCABULARY = 512, 263


def column(change: Callable[[list[list[float]]], None] = lambda rows: None, dtype: Any = np.float32) -> Column:
    """Ones for every token, of which some have been changed."""
    rows = [[1.0] * len(row) for row in ROWS]
    change(rows)
    return Column(ragged=ragged(rows, dtype))


def put(row: int, place: int, value: float) -> Callable[[list[list[float]]], None]:
    def change(rows: list[list[float]]) -> None:
        rows[row][place] = value

    return change


def policy(model: Model, seq_id: int, **columns: Column) -> ForwardBackwardRequest:
    """Importance sampling with one column that is not as it should be."""
    right = {"weights": None, "logprobs": column(), "advantages": column()}
    return forward_backward(model, seq_id, loss=POLICY, batch=batch(**{**right, **columns}))


def custom(*nodes: LossNode) -> LossSpec:
    return LossSpec(custom=CustomLoss(nodes=nodes))


def regularized(*terms: Regularizer) -> LossSpec:
    return LossSpec(cross_entropy=CROSS_ENTROPY.cross_entropy, regularizers=terms)


def with_chunk(**content: Any) -> DatumList:
    """The second datum ends with this chunk."""
    data = datum_list()
    data.data[1].model_input.chunks.append(InputChunk(**content))
    return data


L1, KL = RegularizerKind.REGULARIZER_KIND_L1, RegularizerKind.REGULARIZER_KIND_KL
LOGPROBS = LossNode(name="p", operation="logprobs")
FIELD_NOBODY_KNOWS = b"\x9a\x06\x00"
"""Field 99, an empty message: a loss that a newer client has."""
WITHOUT_WEIGHTS = batch(weights=None)
TOO_LONG = batch([[1], [2] * (CONTEXT + 1)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Bad:
    """A call that is to be refused, and how."""

    request: Callable[[Model, int], Request]
    """Of a model and the next seq_id."""
    code: str = "INVALID_ARGUMENT"
    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Among what the error carries."""
    consumes: bool = True
    """Whether the model's next call has the next seq_id."""
    when: str = "gradients"
    """What the model holds when it comes: "gradients" or "nothing"."""


def loss(spec: LossSpec, reason: str, **metadata: str) -> Bad:
    examples = WITHOUT_WEIGHTS if spec.HasField("custom") else batch()
    return data(reason, metadata, loss=spec, batch=examples)


def data(reason: str, metadata: Mapping[str, str], **fields: Any) -> Bad:
    return Bad(request=lambda model, seq: forward_backward(model, seq, **fields), reason=reason, metadata=metadata)


def adam(**fields: float) -> Bad:
    return Bad(
        request=lambda model, seq: optim_step(model, seq, AdamParams(**{"learning_rate": 1e-3, **fields})),
        reason="INVALID_REQUEST",
    )


BAD: dict[str, Bad] = {
    "missing input": data("MISSING_LOSS_INPUT", {"column": "weights"}, batch=WITHOUT_WEIGHTS),
    "no data at all": data("INVALID_REQUEST", {}, batch=None),
    "an input that nobody reads": data("UNKNOWN_LOSS_INPUT", {"column": "logprobs"}, batch=batch(logprobs=column())),
    "token": data("TOKEN_OUT_OF_VOCABULARY", {"column": "tokens", "datum": "1"}, batch=batch([[1], [VOCABULARY]])),
    "target": data(
        "TOKEN_OUT_OF_VOCABULARY",
        {"column": "target_tokens", "datum": "2"},
        batch=batch(target_tokens=column(put(2, 0, -1), np.int64)),
    ),
    "NaN advantage": Bad(
        request=lambda model, seq: policy(model, seq, advantages=column(put(1, 2, np.nan))),
        reason="NON_FINITE_INPUT",
        metadata={"column": "advantages", "datum": "1"},
    ),
    "infinite logprob": Bad(
        request=lambda model, seq: policy(model, seq, logprobs=column(put(0, 0, -np.inf))),
        reason="NON_FINITE_INPUT",
        metadata={"column": "logprobs", "datum": "0"},
    ),
    "wrong shape": data(
        "BAD_TENSOR",
        {"column": "weights", "datum": "1"},
        batch=batch(weights=column(lambda rows: rows[1].pop())),  # type: ignore[arg-type, return-value]
    ),
    "wrong type": data("BAD_TENSOR", {"column": "target_tokens"}, batch=batch(target_tokens=column())),
    "over-long prompt": data("SEQUENCE_TOO_LONG", {"column": "tokens", "datum": "1"}, batch=TOO_LONG),
    "nothing": data("EMPTY_BATCH", {}, batch=batch([])),
    "no loss": loss(LossSpec(), "UNKNOWN_LOSS"),
    "unknown loss": loss(LossSpec.FromString(FIELD_NOBODY_KNOWS), "UNKNOWN_LOSS"),
    "operation": loss(custom(LossNode(name="x", operation="os.system")), "OPERATION_NOT_ALLOWED", node="x"),
    "a graph in a circle": loss(
        custom(LOGPROBS, LossNode(name="x", operation="add", arguments=["p", "x"])), "BAD_LOSS_GRAPH", node="x"
    ),
    "a graph that is no scalar": loss(custom(LOGPROBS), "BAD_LOSS_GRAPH"),
    "a column that the graph lacks": loss(
        custom(
            LossNode(name="q", operation="input", column="values"),
            LossNode(name="x", operation="sum", arguments=["q"]),
        ),
        "MISSING_LOSS_INPUT",
        column="values",
    ),
    "a regularizer twice": loss(
        regularized(*[Regularizer(name="small", kind=L1, weight=0.1)] * 2), "BAD_REGULARIZER", regularizer="small"
    ),
    "a regularizer of no kind": loss(regularized(Regularizer(name="small", weight=0.1)), "INVALID_REQUEST"),
    "a negative weight": loss(regularized(Regularizer(name="small", kind=L1, weight=-1)), "INVALID_REQUEST"),
    "an option of another kind": loss(
        regularized(Regularizer(name="small", kind=L1, weight=0.1, options={"l1_ratio": 0.5})),
        "BAD_REGULARIZER",
        regularizer="small",
    ),
    "KL to nothing": loss(
        regularized(Regularizer(name="near", kind=KL, weight=0.1)), "BAD_REGULARIZER", regularizer="near"
    ),
    "image": Bad(
        request=lambda model, seq: forward_backward(model, seq, list=with_chunk(image=ImageChunk(data=b"png"))),
        code="FAILED_PRECONDITION",
        reason="MODALITY_UNSUPPORTED",
        metadata={"datum": "1"},
    ),
    "audio": Bad(
        request=lambda model, seq: forward_backward(
            model, seq, list=with_chunk(audio=AudioChunk(samples=b"", sample_rate_hz=16_000))
        ),
        code="FAILED_PRECONDITION",
        reason="MODALITY_UNSUPPORTED",
        metadata={"datum": "1"},
    ),
    "forward alone": Bad(
        request=lambda model, seq: ForwardRequest(
            model_id=model.model_id, seq_id=seq, loss=CROSS_ENTROPY, batch=WITHOUT_WEIGHTS
        ),
        reason="MISSING_LOSS_INPUT",
        metadata={"column": "weights"},
    ),
    "negative learning rate": adam(learning_rate=-1),
    "learning rate that is no number": adam(learning_rate=np.nan),
    "beta of one": adam(beta1=1.0),
    "no gradients": Bad(
        request=lambda model, seq: optim_step(model, seq), code="FAILED_PRECONDITION", reason="NO_GRADIENTS",
        when="nothing",
    ),
    "wrong model": Bad(
        request=lambda model, seq: forward_backward(Model(model_id="nobody"), seq),
        code="NOT_FOUND",
        reason="MODEL_NOT_FOUND",
        consumes=False,
    ),
    "wrong base model": Bad(
        request=lambda model, seq: CreateModelRequest(base_model="nobody"),
        code="NOT_FOUND",
        reason="BASE_MODEL_NOT_FOUND",
        consumes=False,
    ),
    "gap": Bad(
        request=lambda model, seq: forward_backward(model, seq + 1),
        code="ABORTED",
        reason="SEQUENCE_GAP",
        consumes=False,
    ),
    "checkpoint out of the store": Bad(
        request=lambda model, seq: SaveStateRequest(model_id=model.model_id, seq_id=seq, name="../x"),
        reason="INVALID_REQUEST",
    ),
    "no such checkpoint": Bad(
        request=lambda model, seq: LoadStateRequest(
            model_id=model.model_id, seq_id=seq, checkpoint_uri=f"tinsmith://{model.model_id}/training/none"
        ),
        code="NOT_FOUND",
        reason="CHECKPOINT_NOT_FOUND",
    ),
    "no checkpoint's URI": Bad(
        request=lambda model, seq: LoadStateRequest(
            model_id=model.model_id, seq_id=seq, checkpoint_uri="file:///etc/passwd"
        ),
        reason="BAD_CHECKPOINT_URI",
    ),
}  # fmt: skip


async def result(suite: Suite, *bad: Bad) -> str:
    """SHA-256 of the adapter after three good steps; all bad calls come in the middle one."""
    model, seq_ids = await create(suite), count(1)
    for step in range(3):
        for moment in ("nothing", "gradients"):
            if moment == "gradients":
                await suite.trainer.ForwardBackward(
                    forward_backward(model, next(seq_ids), batch=batch(ROWS[: step + 1]))
                )
            for each in (one for one in bad if step == 1 and one.when == moment):
                seq_id = next(seq_ids)
                await is_refused(suite, each, model, seq_id)
                if not each.consumes:
                    seq_ids = count(seq_id)
        await suite.trainer.OptimStep(optim_step(model, next(seq_ids), ADAM))
    saved = await suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=model.model_id, seq_id=next(seq_ids)))
    assert saved.checkpoint.step == 3
    return next(file.sha256 for file in saved.checkpoint.files if file.name.endswith(".safetensors"))


async def is_refused(suite: Suite, bad: Bad, model: Model, seq_id: int) -> None:
    request = bad.request(model, seq_id)
    method = getattr(suite.trainer, type(request).__name__.removesuffix("Request"))
    with pytest.raises(TinsmithError) as refused:
        await method(request)
    error = refused.value
    assert (error.code.name, error.reason) == (bad.code, bad.reason), error.message
    assert bad.metadata.items() <= error.metadata.items()
    assert error.message
    assert bad.reason != "INVALID_REQUEST" or error.violations, "which field it is"


@pytest.mark.parametrize("kind", BAD)
async def test_one_bad_call_changes_nothing(suite: Suite, kind: str) -> None:
    """T-10, T-12, N-21, N-22"""
    assert await result(suite, BAD[kind]) == await result(suite)


async def test_all_bad_calls_together_change_nothing(suite: Suite) -> None:
    """T-10"""
    assert await result(suite, *BAD.values()) == await result(suite)

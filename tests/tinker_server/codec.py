"""The SDK's messages and ours, one into the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tinker.proto import tinker_public_pb2 as public

from tinsmith.arrays import ragged, rows, tensor
from tinsmith.sampler.v1 import sampler_service_pb2 as sampler
from tinsmith.trainer.v1 import (
    CispoLoss,
    CrossEntropyLoss,
    DroLoss,
    ForwardBackwardResponse,
    ForwardResponse,
    ImportanceSamplingLoss,
    LossSpec,
    PpoLoss,
)
from tinsmith.types.v1 import STOP_REASON_LENGTH, Datum, DatumList, InputChunk, ModelInput, RaggedTensor, Tensor

Array = NDArray[Any]
_NUMPY = {public.DTYPE_FLOAT32: "<f4", public.DTYPE_INT64: "<i8"}
_NOTHING = -99999.0
"""The SDK's logprob of a token that is not there."""


def loss_spec(message: public.ForwardBackwardRequest) -> LossSpec:
    """A loss by name."""
    config = {name: value.number for name, value in message.loss_fn_config_v2.items()}
    clip = {ours: config[f"{ours}_threshold"] for ours in ("clip_low", "clip_high") if f"{ours}_threshold" in config}
    match message.loss_fn:
        case "cross_entropy":
            return LossSpec(cross_entropy=CrossEntropyLoss())
        case "importance_sampling":
            return LossSpec(importance_sampling=ImportanceSamplingLoss())
        case "ppo":
            return LossSpec(ppo=PpoLoss(**clip))
        case "cispo":
            return LossSpec(cispo=CispoLoss(**clip))
        case "dro":
            return LossSpec(dro=DroLoss(beta=config["beta"]))
        case other:
            raise ValueError(f"loss {other} is not known here")


def datum_list(message: public.ForwardBackwardRequest) -> DatumList:
    """The examples."""
    return DatumList(data=[_datum(datum) for datum in message.data])


def forward_output(answer: ForwardResponse | ForwardBackwardResponse) -> bytes:
    """Logprobs and metrics; one record for all examples."""
    logprobs = rows(answer.logprobs)
    offsets = np.cumsum([0] + [row.nbytes for row in logprobs], dtype="<i8")
    column = public.BatchedTensor(
        data=answer.logprobs.data,
        offsets=offsets.tobytes(),
        dtype=public.DTYPE_FLOAT32,
        trailing_shape=answer.logprobs.inner_shape,
    )
    record = public.ArrayRecord(type_tag="ArrayRecord", fields={"logprobs": column}, num_datums=len(logprobs))
    output = public.ForwardBackwardOutput(
        loss_fn_output_type="ArrayRecord", loss_fn_outputs=[record], metrics=answer.metrics
    )
    return output.SerializeToString()


def sample_request(body: Mapping[str, Any], model: sampler.ModelRef) -> sampler.SampleRequest:
    """A sampling request of one prompt."""
    prompt = _prompt(body)
    return sampler.SampleRequest(
        model=model,
        prompts=ragged_row(prompt),
        num_samples=body.get("num_samples", 1),
        params=_params(body["sampling_params"]),
        seeds=_seeds(body["sampling_params"].get("seed")),
        prompt_logprobs=body.get("prompt_logprobs", False),
        top_prompt_logprobs=body.get("topk_prompt_logprobs", 0),
        top_logprobs=body.get("topk_sample_logprobs", 0),
    )


def targets(body: Mapping[str, Any]) -> tuple[RaggedTensor, RaggedTensor]:
    """The prompt without its last token, and the ids whose logprobs are asked for at each of its positions."""
    wanted = body["target_prompt_logprobs"]
    ids = np.array(wanted["data"], "<i4").reshape(wanted["shape"])
    prompt = _prompt(body)[:-1]
    offsets = np.array([0, len(prompt)], "<i8").tobytes()
    message = RaggedTensor(
        dtype=ragged_row(prompt).dtype, offsets=offsets, inner_shape=ids.shape[1:], data=ids.tobytes()
    )
    return ragged_row(prompt), message


def sample_output(answer: sampler.SampleResponse, target_logprobs: RaggedTensor | None) -> bytes:
    """Answers to one prompt."""
    tops = _tops(answer.top_logprobs) if answer.HasField("top_logprobs") else None
    sequences = [
        public.SampledSequence(
            stop_reason=public.STOP_REASON_LENGTH if reason == STOP_REASON_LENGTH else public.STOP_REASON_STOP,
            tokens=tokens.astype("<i4").tobytes(),
            logprobs=logprobs.astype("<f4").tobytes(),
            topk_sampled_logprobs=None if tops is None else tops[number],
        )
        for number, (tokens, logprobs, reason) in enumerate(
            zip(rows(answer.tokens), rows(answer.logprobs), answer.stop_reasons, strict=True)
        )
    ]
    output = public.SampleResponse(sequences=sequences, prompt_cache_hit_tokens=answer.usage.cached_prompt_tokens)
    if answer.HasField("prompt_logprobs"):
        output.prompt_logprobs = answer.prompt_logprobs.data
    if answer.HasField("top_prompt_logprobs"):
        output.topk_prompt_logprobs.CopyFrom(_tops(answer.top_prompt_logprobs)[0])
    if target_logprobs is not None:
        shape = [len(rows(target_logprobs)[0]), *target_logprobs.inner_shape]
        scored = public.Tensor(dense=target_logprobs.data, dtype=public.DTYPE_FLOAT32, shape=shape)
        output.target_prompt_logprobs.CopyFrom(scored)
    return output.SerializeToString()


def ragged_row(tokens: Sequence[int]) -> RaggedTensor:
    """One row of token ids."""
    return ragged([tokens], np.int32)


def _datum(message: public.Datum) -> Datum:
    chunks = [InputChunk(token_ids=chunk.encoded_text.tokens) for chunk in message.model_input]
    inputs = {name: _tensor(value) for name, value in message.loss_fn_inputs.items()}
    return Datum(model_input=ModelInput(chunks=chunks), loss_inputs=inputs)


def _tensor(message: public.Tensor) -> Tensor:
    dtype = _NUMPY[message.dtype]
    if message.WhichOneof("encoding") == "dense":
        return tensor(np.frombuffer(message.dense, dtype).reshape(tuple(message.shape)))
    csr = message.sparse_csr
    dense = np.zeros(tuple(message.shape), dtype)
    crow, columns = np.frombuffer(csr.crow_indices, "<i8"), np.frombuffer(csr.col_indices, "<i8")
    dense[np.repeat(np.arange(len(crow) - 1), np.diff(crow)), columns] = np.frombuffer(csr.values, dtype)
    return tensor(dense)


def _seeds(seed: int | None) -> list[int]:
    """uint64 as int64, bit for bit."""
    return [] if seed is None else [int(np.uint64(seed).astype(np.int64))]


def _prompt(body: Mapping[str, Any]) -> list[int]:
    return [token for chunk in body["prompt"]["chunks"] for token in chunk["tokens"]]


def _params(given: Mapping[str, Any]) -> sampler.SamplingParams:
    stop = given.get("stop")
    params = sampler.SamplingParams(
        max_tokens=given.get("max_tokens") or (1 << 30),
        temperature=given.get("temperature", 1.0),
        top_p=given.get("top_p", 1.0),
        top_k=max(given.get("top_k", -1), 0),
        ignore_eos=stop is not None,
    )
    for item in [stop] if isinstance(stop, str) else stop or []:
        if isinstance(item, str):
            params.stop.strings.append(item)
        else:
            params.stop.token_ids.append(item)
    return params


def _tops(message: sampler.TopLogprobs) -> list[public.TopkLogprobs]:
    pairs = zip(rows(message.token_ids), rows(message.logprobs), strict=True)
    return [
        public.TopkLogprobs(
            token_ids=ids.astype("<i4").tobytes(),
            logprobs=np.where(np.isneginf(logprobs), np.float32(_NOTHING), logprobs).astype("<f4").tobytes(),
            length=ids.shape[0],
            k=ids.shape[1],
        )
        for ids, logprobs in pairs
    ]

"""The sampler's messages and its domain, one into the other. The only file that knows both."""

import secrets
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tinsmith.arrays import flat_and_offsets, ragged_of
from tinsmith.sampler.v1 import sampler_service_pb2 as pb
from tinsmith.types.v1 import data_pb2, model_pb2, tensor_pb2
from tinsmith_server.sampler.backend import Delta, ModelSummary, Versioned
from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import (
    Answers,
    LogprobsRequest,
    ModelRef,
    SampleRequest,
    SamplingParams,
    Scores,
    StopReason,
    TopLogprobs,
    Usage,
)
from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument

_STOP_REASONS: Mapping[int, data_pb2.StopReason.ValueType] = {
    StopReason.NONE: data_pb2.STOP_REASON_UNSPECIFIED,
    StopReason.STOP: data_pb2.STOP_REASON_STOP,
    StopReason.EOS: data_pb2.STOP_REASON_EOS,
    StopReason.LENGTH: data_pb2.STOP_REASON_LENGTH,
}


def sample_request(message: pb.SampleRequest) -> SampleRequest:
    """A SampleRequest as the domain has it; without seeds, fresh ones are drawn and later returned."""
    prompts = _prompts(message)
    return SampleRequest(
        model=_model_ref(message.model),
        prompts=prompts,
        num_samples=message.num_samples or 1,
        params=_sampling_params(message.params),
        seeds=_seeds(message.seeds, len(prompts)),
        prompt_logprobs=message.prompt_logprobs,
        top_prompt_logprobs=message.top_prompt_logprobs,
        top_logprobs=message.top_logprobs,
        return_text=message.return_text,
    )


def stream_request(message: pb.SampleStreamRequest) -> SampleRequest:
    """The same for a stream, which carries tokens and text only."""
    for field in ("prompt_logprobs", "top_prompt_logprobs", "top_logprobs"):
        if getattr(message.sample, field):
            raise InvalidArgument(
                f"sample.{field}: is not streamed; ask for it with Sample",
                reason="NOT_STREAMED",
                violations=[(f"sample.{field}", "is not streamed; ask for it with Sample")],
            )
    return sample_request(message.sample)


def logprobs_request(message: pb.ComputeLogprobsRequest) -> LogprobsRequest:
    """A ComputeLogprobsRequest as the domain has it."""
    return LogprobsRequest(
        model=_model_ref(message.model),
        sequences=_token_rows("sequences", message.sequences, dimensions=1),
        targets=_token_rows("targets", message.targets, dimensions=2) if message.HasField("targets") else None,
        top_logprobs=message.top_logprobs,
    )


def sample_response(request: SampleRequest, answered: Versioned[Answers]) -> pb.SampleResponse:
    """Whole answers as a message."""
    answers = answered.result
    return pb.SampleResponse(
        tokens=_ragged(answers.tokens),
        logprobs=_ragged(answers.logprobs),
        stop_reasons=[_STOP_REASONS[reason] for reason in answers.stop_reasons.tolist()],
        texts=answers.texts,
        prompt_logprobs=None if answers.prompt_logprobs is None else _ragged(answers.prompt_logprobs),
        top_prompt_logprobs=_top(answers.top_prompt_logprobs),
        top_logprobs=_top(answers.top_logprobs),
        weights_version=answered.weights_version,
        usage=_usage(answers.usage),
        seeds=request.seeds.tolist(),
    )


def stream_response(item: Sequence[Delta] | Versioned[Usage]) -> pb.SampleStreamResponse:
    """A piece of a stream, or its end, as a message."""
    if isinstance(item, Versioned):
        return pb.SampleStreamResponse(usage=_usage(item.result), weights_version=item.weights_version)
    return pb.SampleStreamResponse(deltas=[_delta(delta) for delta in item])


def logprobs_response(scored: Versioned[Scores]) -> pb.ComputeLogprobsResponse:
    """Scores as a message."""
    return pb.ComputeLogprobsResponse(
        logprobs=_ragged(scored.result.logprobs),
        top_logprobs=_top(scored.result.top_logprobs),
        weights_version=scored.weights_version,
    )


def base_model(summary: ModelSummary) -> model_pb2.BaseModelInfo:
    """A base model as a message."""
    return model_pb2.BaseModelInfo(
        name=summary.name,
        parameters=summary.parameters,
        context_length=summary.context_length,
        vocabulary_size=summary.vocabulary_size,
        architecture=summary.architecture,
        loaded=summary.loaded,
    )


def _model_ref(message: pb.ModelRef) -> ModelRef:
    if message.WhichOneof("model") == "checkpoint_uri":
        return ModelRef(checkpoint_uri=message.checkpoint_uri)
    return ModelRef(base_model=message.base_model)


def _prompts(message: pb.SampleRequest) -> Ragged:
    if message.HasField("prompts"):
        if message.inputs:
            raise _bad_tensor("inputs", "comes with prompts; send one of the two")
        return _token_rows("prompts", message.prompts, dimensions=1)
    return Ragged.of([_text_only(row, model_input) for row, model_input in enumerate(message.inputs)], np.int32)


def _text_only(row: int, model_input: data_pb2.ModelInput) -> NDArray[np.int32]:
    for chunk in model_input.chunks:
        if chunk.WhichOneof("content") != "token_ids":
            raise FailedPrecondition(
                f"inputs[{row}] has a chunk of {chunk.WhichOneof('content')}; the models served here read text only",
                reason="MODALITY_UNSUPPORTED",
                metadata={"prompt": str(row)},
            )
        if len(chunk.token_ids) % 4:
            raise _bad_tensor(f"inputs[{row}]", "token_ids must be int32, four bytes each")
    return np.frombuffer(b"".join(chunk.token_ids for chunk in model_input.chunks), "<i4")


def _token_rows(field: str, message: tensor_pb2.RaggedTensor, *, dimensions: int) -> Ragged:
    """int32 rows of scalars (1 dimension) or of [K] (2 dimensions)."""
    if message.dtype != tensor_pb2.DTYPE_INT32:
        raise _bad_tensor(field, "must hold int32 token ids (dtype DTYPE_INT32)")
    try:
        values, offsets = flat_and_offsets(message)
    except ValueError as error:
        raise _bad_tensor(field, str(error)) from error
    if values.ndim != dimensions:
        raise _bad_tensor(field, f"must have {dimensions - 1} inner dimensions, has {values.ndim - 1}")
    return Ragged(values=values, offsets=offsets)


def _bad_tensor(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {description}", reason="BAD_TENSOR", violations=[(field, description)])


def _seeds(given: Sequence[int], prompts: int) -> NDArray[np.int64]:
    if not given:
        return np.array([secrets.randbits(63) for _ in range(prompts)], np.int64)
    return np.array(list(given) * prompts if len(given) == 1 else given, np.int64)


def _sampling_params(message: pb.SamplingParams) -> SamplingParams:
    return SamplingParams(
        max_tokens=message.max_tokens,
        temperature=message.temperature if message.HasField("temperature") else 1.0,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        top_k=message.top_k,
        min_p=message.min_p,
        stop_strings=tuple(message.stop.strings),
        stop_token_ids=tuple(message.stop.token_ids),
        ignore_eos=message.ignore_eos,
        frequency_penalty=message.frequency_penalty,
        presence_penalty=message.presence_penalty,
        logit_bias=dict(message.logit_bias),
        allowed_token_ids=tuple(message.allowed_token_ids),
    )


def _ragged(column: Ragged) -> tensor_pb2.RaggedTensor:
    return ragged_of(column.values, column.offsets)


def _top(top: TopLogprobs | None) -> pb.TopLogprobs | None:
    if top is None:
        return None
    return pb.TopLogprobs(token_ids=_ragged(top.token_ids), logprobs=_ragged(top.logprobs))


def _usage(usage: Usage) -> pb.SamplingUsage:
    return pb.SamplingUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
    )


def _delta(delta: Delta) -> pb.SampleDelta:
    return pb.SampleDelta(
        index=delta.row,
        token_ids=np.array(delta.tokens, "<i4").tobytes(),
        logprobs=np.array(delta.logprobs, "<f4").tobytes(),
        text=delta.text,
        stop_reason=_STOP_REASONS[delta.stop_reason],
    )

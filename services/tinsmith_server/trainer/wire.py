"""The trainer's messages and its domain, one into the other. With `columns.py` and `wire_loss.py`
the only place that knows both."""

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tinsmith.arrays import ragged_of
from tinsmith.trainer.v1 import checkpoint_pb2, checkpoint_service_pb2
from tinsmith.trainer.v1 import trainer_service_pb2 as pb
from tinsmith.types.v1 import model_pb2, tensor_pb2
from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.storage import (
    SAMPLER,
    TRAINING,
    CheckpointFile,
    CheckpointUri,
    LoraShape,
    Manifest,
    Resolved,
    Skipped,
)
from tinsmith_server.trainer import columns, wire_loss
from tinsmith_server.trainer.backend import Backend, BaseModelSummary
from tinsmith_server.trainer.checkpoints.upload import NewUpload, bad_upload
from tinsmith_server.trainer.hosting.hosted_model import HostedModel, SaveRequest
from tinsmith_server.trainer.hosting.registry import CreatedModel, NewModel
from tinsmith_server.trainer.losses import LOSSES
from tinsmith_server.trainer.request import AdamParams, Batch, ForwardResult, StepResult, TrainingCall

_DEFAULT_RANK, _DEFAULT_ALPHA = 32, 32.0

_KIND_OF = {
    checkpoint_pb2.CHECKPOINT_KIND_UNSPECIFIED: "",
    checkpoint_pb2.CHECKPOINT_KIND_TRAINING: TRAINING,
    checkpoint_pb2.CHECKPOINT_KIND_SAMPLER: SAMPLER,
}
"""The contract's kinds of checkpoints as the store has them; empty is any."""
_ACCELERATIONS = ("deepspeed", "flash_attention", "liger_kernel")
"""Packages that others need or use when they are there. Ours does without: attention is torch's own."""
_LONGEST_S = 100 * 366 * 24 * 60 * 60
"""Longest duration that is taken: a hundred years, which every calendar reaches."""
_KIND_TO = {kind: number for number, kind in _KIND_OF.items()}


def new_model(message: pb.CreateModelRequest) -> NewModel:
    """A CreateModelRequest as the domain has it."""
    return NewModel(
        model_id=message.model_id,
        base_model=message.base_model,
        shape=_shape(message.lora),
        checkpoint_uri=message.checkpoint_uri,
        load_optimizer=message.load_optimizer,
        user_metadata=dict(message.user_metadata),
        idle_timeout=duration("idle_timeout", message.idle_timeout) if message.HasField("idle_timeout") else None,
        heartbeat_timeout=(
            duration("heartbeat_timeout", message.heartbeat_timeout) if message.HasField("heartbeat_timeout") else None
        ),
    )


def create_model_response(created: CreatedModel) -> pb.CreateModelResponse:
    """A model that was made, and where it starts from."""
    source = created.restored_from
    return pb.CreateModelResponse(
        model=model(created.model),
        restored_from=None if source is None else checkpoint(source),
        skipped=map(skipped_checkpoint, created.skipped),
    )


def load_state_response(hosted: HostedModel, found: Resolved[Manifest]) -> pb.LoadStateResponse:
    """A model after a checkpoint was loaded into it, and which one that was."""
    skipped = map(skipped_checkpoint, found.skipped)
    return pb.LoadStateResponse(model=model(hosted), restored_from=checkpoint(found.value), skipped=skipped)


def training_call(message: pb.ForwardRequest | pb.ForwardBackwardRequest) -> TrainingCall:
    """A training call as the domain has it.

    InvalidArgument as `wire_loss`.
    """
    backward = message if isinstance(message, pb.ForwardBackwardRequest) else pb.ForwardBackwardRequest()
    return TrainingCall(
        loss=wire_loss.loss(message.loss),
        terms=wire_loss.terms(message.loss),
        batch=_batch(message),
        omit_logprobs=backward.omit_logprobs,
        parameter_grad_norms=backward.parameter_grad_norms,
    )


def adam_params(message: pb.AdamParams) -> AdamParams:
    """The optimizer's settings; what is absent has the default of the contract."""
    given = {field.name: value for field, value in message.ListFields()}
    return AdamParams(**{"learning_rate": message.learning_rate, **given})


def save_request(message: pb.SaveStateRequest | pb.SaveForSamplerRequest) -> SaveRequest:
    """How a checkpoint is to be stored."""
    ttl = duration("ttl", message.ttl) if message.HasField("ttl") else None
    return SaveRequest(name=message.name, ttl=ttl, overwrite=message.overwrite)


def forward_response(result: ForwardResult) -> pb.ForwardResponse:
    """Logprobs and metrics as a message."""
    reports = map(wire_loss.report, result.regularizers)
    return pb.ForwardResponse(logprobs=_logprobs(result), metrics=result.metrics, regularizers=reports)


def forward_backward_response(result: ForwardResult) -> pb.ForwardBackwardResponse:
    """Logprobs and metrics as a message."""
    reports = map(wire_loss.report, result.regularizers)
    return pb.ForwardBackwardResponse(logprobs=_logprobs(result), metrics=result.metrics, regularizers=reports)


def optim_step_response(result: StepResult) -> pb.OptimStepResponse:
    """What an optimizer step did as a message."""
    return pb.OptimStepResponse(step=result.step, metrics=result.metrics)


def model(hosted: HostedModel) -> pb.Model:
    """A model as a message."""
    facts = hosted.facts
    return pb.Model(
        model_id=hosted.model_id,
        base_model=facts.base_model,
        lora=_lora(facts.shape),
        step=facts.step,
        last_seq_id=hosted.order.last_seq_id,
        create_time=timestamp(hosted.create_time),
        last_use_time=timestamp(hosted.last_use_time),
        user_metadata=hosted.user_metadata,
        trainable_parameters=facts.trainable_parameters,
        parked=hosted.residence.is_parked,
    )


def checkpoint(manifest: Manifest) -> checkpoint_pb2.Checkpoint:
    """A checkpoint in storage as a message."""
    return checkpoint_pb2.Checkpoint(
        uri=str(manifest.uri),
        model_id=manifest.uri.model_id,
        kind=_KIND_TO[manifest.uri.kind],
        name=manifest.uri.name,
        step=manifest.step,
        base_model=manifest.base_model,
        lora=_lora(manifest.lora),
        files=map(checkpoint_file, manifest.files),
        create_time=timestamp(manifest.create_time),
        expire_time=None if manifest.expire_time is None else timestamp(manifest.expire_time),
        ephemeral=manifest.ephemeral,
        published=manifest.published,
        user_metadata=manifest.user_metadata,
    )


def new_upload(message: checkpoint_service_pb2.UploadCheckpointRequest) -> NewUpload:
    """What the first message of an upload announces. InvalidArgument with reason BAD_UPLOAD when it is no header."""
    if message.WhichOneof("part") != "header":
        raise bad_upload("the first message is not the header", "header")
    header = message.header
    return NewUpload(
        uri=CheckpointUri.parse(header.uri),
        files=[CheckpointFile(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256) for file in header.files],
        base_model=header.base_model,
        user_metadata=dict(header.user_metadata),
        overwrite=header.overwrite,
    )


def skipped_checkpoint(item: Skipped) -> checkpoint_pb2.SkippedCheckpoint:
    """A damaged checkpoint that "latest" went past as a message."""
    return checkpoint_pb2.SkippedCheckpoint(uri=str(item.uri), reason=item.reason, message=item.message)


def checkpoint_file(file: CheckpointFile) -> checkpoint_pb2.CheckpointFile:
    """One file's entry as a message."""
    return checkpoint_pb2.CheckpointFile(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256)


def capabilities(backend: Backend, max_batch_data: int) -> pb.GetCapabilitiesResponse:
    """What the trainer can do as a message."""
    return pb.GetCapabilitiesResponse(
        backend=backend.name,
        base_models=map(_base_model, backend.base_models()),
        losses=LOSSES,
        device=backend.device,
        accelerations=dict.fromkeys(_ACCELERATIONS, False),
        max_batch_data=max_batch_data,
    )


def checkpoint_kind(number: "checkpoint_pb2.CheckpointKind.ValueType") -> str:
    """A kind as the store has it; empty is any. InvalidArgument with reason INVALID_REQUEST when there is none such."""
    if number not in _KIND_OF:
        raise _not_valid("kind", f"{number} is not known")
    return _KIND_OF[number]


def duration(field: str, message: Duration) -> timedelta:
    """A Duration as a timedelta. InvalidArgument with reason INVALID_REQUEST when it is negative or no calendar reaches
    its end."""
    if not 0 <= message.seconds <= _LONGEST_S or not 0 <= message.nanos < 1_000_000_000:
        raise _not_valid(field, f"must be from 0 to {_LONGEST_S} seconds")
    return timedelta(seconds=message.seconds, microseconds=message.nanos / 1000)


def timestamp(moment: datetime) -> Timestamp:
    """A moment as a Timestamp."""
    message = Timestamp()
    message.FromDatetime(moment.astimezone(UTC))
    return message


def _shape(message: model_pb2.LoraConfig) -> LoraShape:
    def trains(kind: str) -> bool:
        return not message.HasField(kind) or getattr(message, kind)  # type: ignore[arg-type]  # a name of the contract

    return LoraShape(
        rank=message.rank or _DEFAULT_RANK,
        alpha=message.alpha if message.HasField("alpha") else _DEFAULT_ALPHA,
        seed=message.seed,
        train_attention=trains("train_attention"),
        train_mlp=trains("train_mlp"),
        train_unembedding=trains("train_unembedding"),
        target_modules=tuple(sorted(set(message.target_modules))),
    )


def _lora(shape: LoraShape) -> model_pb2.LoraConfig:
    return model_pb2.LoraConfig(
        rank=shape.rank,
        alpha=shape.alpha,
        seed=shape.seed,
        train_attention=shape.train_attention,
        train_mlp=shape.train_mlp,
        train_unembedding=shape.train_unembedding,
        target_modules=shape.target_modules,
    )


def _batch(message: pb.ForwardRequest | pb.ForwardBackwardRequest) -> Batch:
    if message.WhichOneof("data") == "batch":
        return columns.of_batch(message.batch)
    return columns.of_list(message.list)


def _logprobs(result: ForwardResult) -> tensor_pb2.RaggedTensor | None:
    return None if result.logprobs is None else ragged_of(result.logprobs.values, result.logprobs.offsets)


def _not_valid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {problem}", reason="INVALID_REQUEST", violations=[(field, problem)])


def _base_model(summary: BaseModelSummary) -> model_pb2.BaseModelInfo:
    return model_pb2.BaseModelInfo(
        name=summary.name,
        parameters=summary.parameters,
        context_length=summary.context_length,
        vocabulary_size=summary.vocabulary_size,
        architecture=summary.architecture,
        loaded=True,
    )

"""Base models of a Tinker service, and adapters that it trains."""

from collections.abc import Mapping, Sequence

import tinker

from tinsmith_server.models import BaseModel
from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument, NotFound
from tinsmith_server.storage import LoraShape
from tinsmith_server.tinker_client.connection import Connection
from tinsmith_server.tinker_client.models import ServedModel, served_models
from tinsmith_server.tinker_client.remote_checkpoint import RemoteCheckpoint
from tinsmith_server.trainer.backend import BaseModelSummary
from tinsmith_server.trainer.tinker.model import TinkerModel

_ALPHA = 32.0
"""Scale of every adapter at the service, which does not let one choose it."""


class TinkerBackend:
    """See `backend.Backend`. The locations of the base models are the service's names."""

    name = "tinker"
    device = "tinker"

    def __init__(self, base_models: Mapping[str, BaseModel], connection: Connection, *, max_data: int) -> None:
        self._wanted, self._connection, self._max_data = base_models, connection, max_data
        self._bases: dict[str, ServedModel] = {}

    @property
    def waiting(self) -> int:
        """None that this process could know of: they wait at the service."""
        return 0

    async def start(self) -> None:
        """Begins a session. Errors as `Connection.open` and `served_models`."""
        await self._connection.open()
        self._bases = await served_models(self._connection, self._wanted)

    async def stop(self) -> None:
        await self._connection.close()

    def base_models(self) -> Sequence[BaseModelSummary]:
        return [
            BaseModelSummary(
                name=base.name,
                parameters=0,
                context_length=base.known_context,
                vocabulary_size=0,
                architecture="",
            )
            for base in self._bases.values()
        ]

    async def create_model(self, base_model: str, shape: LoraShape) -> TinkerModel:
        base = self._base(base_model)
        _check_shape(shape)
        future = self._connection.service.create_lora_training_client(
            base.remote,
            rank=shape.rank,
            seed=shape.seed,
            train_mlp=shape.train_mlp,
            train_attn=shape.train_attention,
            train_unembed=shape.train_unembedding,
        )
        client = await self._connection.result(future, missing=lambda said: _no_base_model(base_model, said))
        return self._model(base, shape, client, step=0)

    async def restore_model(
        self, base_model: str, shape: LoraShape, files: Mapping[str, bytes], *, with_optimizer: bool
    ) -> TinkerModel:
        remote = RemoteCheckpoint.of(files)
        model = self._model(self._base(base_model), shape, None, step=remote.step)
        await model.load(files, with_optimizer=with_optimizer)
        return model

    def _model(
        self, base: ServedModel, shape: LoraShape, client: tinker.TrainingClient | None, *, step: int
    ) -> TinkerModel:
        return TinkerModel(self._connection, base, shape, client, step=step, max_data=self._max_data)

    def _base(self, name: str) -> ServedModel:
        if name not in self._bases:
            raise _no_base_model(name, f"this trainer serves {', '.join(self._bases) or 'none'} (setting base_models)")
        return self._bases[name]


def _no_base_model(name: str, what: str) -> NotFound:
    return NotFound(
        f"base model {name!r} is not served here; {what}", reason="BASE_MODEL_NOT_FOUND", metadata={"base_model": name}
    )


def _check_shape(shape: LoraShape) -> None:
    """InvalidArgument with reason NOTHING_TO_TRAIN; FailedPrecondition with reason BACKEND_UNSUPPORTED."""
    if shape.alpha != _ALPHA:
        raise _unsupported("lora.alpha", f"{shape.alpha:g}: the Tinker service scales every adapter by {_ALPHA:g}")
    if shape.target_modules:
        raise _unsupported("lora.target_modules", "the Tinker service takes the three switches only")
    if not (shape.train_attention or shape.train_mlp or shape.train_unembedding):
        raise InvalidArgument(
            "lora leaves nothing to train: set one of train_attention, train_mlp, train_unembedding",
            reason="NOTHING_TO_TRAIN",
            violations=[("lora", "must train attention, mlp or unembedding")],
        )


def _unsupported(option: str, what: str) -> FailedPrecondition:
    return FailedPrecondition(f"{option}: {what}", reason="BACKEND_UNSUPPORTED", metadata={"option": option})

"""Which matrices of a base model an adapter changes."""

from collections.abc import Iterator, Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tinsmith_server.serving.errors import FailedPrecondition
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.local.adapter import AdaptedMatrix

_KINDS: Mapping[str, frozenset[str]] = {
    "attention": frozenset({"self_attn", "attn", "attention", "self_attention"}),
    "mlp": frozenset({"mlp", "feed_forward", "ffn", "fc1", "fc2"}),
}
"""Kind -> names of the modules, as the families of `transformers` have them, that its matrices are in."""
_ROUTERS = frozenset({"gate", "router"})
"""Matrices that choose experts, which low-rank training leaves alone."""


def adapted_matrices(model: PreTrainedModel, shape: LoraShape) -> Sequence[AdaptedMatrix]:
    """The matrices that an adapter of this shape changes, in the model's own order.

    Raises FailedPrecondition with reason BASE_MODEL_UNSUPPORTED when there is none of a kind, or of a name, that is
    asked for.
    """
    if shape.target_modules:
        return _named(model, shape.target_modules)
    wanted = {"attention": shape.train_attention, "mlp": shape.train_mlp, "unembedding": shape.train_unembedding}
    found = [(kind, matrix) for kind, matrix in _all(model) if wanted[kind]]
    for kind in (kind for kind, is_wanted in wanted.items() if is_wanted):
        if not any(kind == of for of, _ in found):
            raise FailedPrecondition(
                f"{type(model).__name__} has no linear layer known as {kind}; leave train_{kind} out or use another "
                "base model",
                reason="BASE_MODEL_UNSUPPORTED",
                metadata={"module": kind},
            )
    return [matrix for _, matrix in found]


def is_named(path: str, name: str) -> bool:
    """Whether `name` is the path or an ending of it, by PEFT's rule."""
    return path == name or path.endswith(f".{name}")


def _named(model: PreTrainedModel, names: Sequence[str]) -> Sequence[AdaptedMatrix]:
    matrices = [matrix for _, matrix in _all(model)]
    for name in names:
        if not any(is_named(matrix.path, name) for matrix in matrices):
            raise FailedPrecondition(
                f"{type(model).__name__} has no attention, mlp or unembedding matrix {name!r} that can be adapted",
                reason="BASE_MODEL_UNSUPPORTED",
                metadata={"module": name},
            )
    return [matrix for matrix in matrices if any(is_named(matrix.path, name) for name in names)]


def _all(model: PreTrainedModel) -> Iterator[tuple[str, AdaptedMatrix]]:
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for path, module in model.named_modules():
        if module is head:
            yield "unembedding", _matrix(path, module)
        elif isinstance(module, nn.Linear | Conv1D) and (kind := _kind(path)):
            yield kind, _matrix(path, module)


def _kind(path: str) -> str | None:
    names = path.split(".")
    if names[-1] in _ROUTERS:
        return None
    return next((kind for kind, places in _KINDS.items() if places & set(names)), None)


def _matrix(path: str, module: nn.Module) -> AdaptedMatrix:
    is_transposed = isinstance(module, Conv1D)
    first, second = module.get_parameter("weight").shape
    inputs, outputs = (first, second) if is_transposed else (second, first)
    return AdaptedMatrix(path=path, inputs=inputs, outputs=outputs, is_transposed=is_transposed)

"""Adapters that were trained elsewhere: do they fit the base model, and which of its matrices do they adapt?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from tinsmith_server.serving.errors import FailedPrecondition
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.checkpoints.adapter_files import MEAN, MEAN_SQUARE, PREFIX, STEP, endings, mismatch
from tinsmith_server.trainer.checkpoints.peft_config import PeftConfig, unsupported
from tinsmith_server.trainer.local.adapter import AdaptedMatrix
from tinsmith_server.trainer.local.causal import CausalModel

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

_MOST_STEPS = 1 << 53
"""Whole numbers up to here are the same in every language."""

Sizes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""


def shape_of_adapter(config: PeftConfig, weights: Path, base: CausalModel) -> LoraShape:
    """The adapter's shape; its target_modules name exactly the matrices that the file has halves of. Blocks.

    Raises FailedPrecondition with reason ADAPTER_UNSUPPORTED when the base model has no such matrices, when a half has
    another shape, or when there are other tensors, unless they are the base model's own weights.
    """
    sizes = _sizes(weights)
    halves = {name for name in sizes if name.endswith((".lora_A.weight", ".lora_B.weight"))}
    _check_types(weights, sorted(halves))
    paths = sorted({name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in halves})
    if not paths:
        raise unsupported("it has no pair of lora_A and lora_B", "target_modules")
    matrices = _matrices(base, config, paths)
    _check_sizes({name: sizes[name] for name in halves}, expected_sizes(matrices, config.rank, PREFIX))
    _check_copies(weights, sorted(sizes.keys() - halves), base)
    return LoraShape(rank=config.rank, alpha=config.alpha, target_modules=_shortest_names(base, matrices))


def step_of_optimizer(optimizer: Path, matrices: Sequence[AdaptedMatrix], rank: int) -> int:
    """Steps that an optimizer's memory has seen. Blocks. FailedPrecondition with reason CHECKPOINT_MISMATCH when it is
    not that of an adapter with these matrices."""
    expected: dict[str, tuple[int, ...]] = {STEP: (1,)}
    for moment in (MEAN, MEAN_SQUARE):
        expected |= expected_sizes(matrices, rank, f"{moment}.")
    if _sizes(optimizer) != expected:
        raise mismatch("the optimizer's memory of another adapter")
    with safe_open(optimizer, framework="pt") as tensors:
        step = tensors.get_tensor(STEP)
    if step.dtype != torch.int64 or not 0 <= int(step[0]) <= _MOST_STEPS:
        raise mismatch("an optimizer's memory with a number of steps that none can have taken")
    return int(step[0])


def expected_sizes(matrices: Sequence[AdaptedMatrix], rank: int, prefix: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the halves of an adapter."""
    sizes: dict[str, tuple[int, ...]] = {}
    for matrix in matrices:
        sizes[f"{prefix}{matrix.path}.lora_A.weight"] = (rank, matrix.inputs)
        sizes[f"{prefix}{matrix.path}.lora_B.weight"] = (matrix.outputs, rank)
    return sizes


def _sizes(file: Path) -> Sizes:
    with safe_open(file, framework="pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _matrices(base: CausalModel, config: PeftConfig, paths: Sequence[str]) -> Sequence[AdaptedMatrix]:
    shape = LoraShape(rank=config.rank, alpha=config.alpha, target_modules=tuple(paths))
    try:
        matrices = base.matrices(shape)
    except FailedPrecondition as error:
        raise unsupported(error.message, "target_modules") from error
    found = [matrix for matrix in matrices if matrix.path in paths]
    if len(found) != len(paths):
        lacking = set(paths) - {matrix.path for matrix in found}
        raise unsupported(f"the base model has no matrix {min(lacking)}", "target_modules")
    return found


def _shortest_names(base: CausalModel, matrices: Sequence[AdaptedMatrix]) -> tuple[str, ...]:
    """Endings of paths that name these matrices and no others; where there are none such, the paths."""
    paths = [matrix.path for matrix in matrices]
    with_parent = sorted({".".join(path.split(".")[-2:]) for path in paths})
    for names in (tuple(endings(matrices)), tuple(with_parent)):
        named = base.matrices(LoraShape(rank=1, alpha=1.0, target_modules=names))
        if [matrix.path for matrix in named] == paths:
            return names
    return tuple(sorted(paths))


def _check_sizes(found: Sizes, expected: Sizes) -> None:
    if found == expected:
        return
    name = min(found.keys() ^ expected.keys(), default="") or next(n for n in expected if found[n] != expected[n])
    has, needs = list(found.get(name, ())), list(expected.get(name, ()))
    raise unsupported(f"{name} is {has or 'not there'}, the base model and rank ask for {needs or 'nothing'}", name)


def _check_types(weights: Path, names: Sequence[str]) -> None:
    with safe_open(weights, framework="pt") as tensors:
        odd = next((name for name in names if tensors.get_slice(name).get_dtype() not in _FLOATS), None)
    if odd is not None:
        raise unsupported(f"{odd} does not hold floating-point numbers of 16 bits or more", odd)


def _check_copies(weights: Path, names: Sequence[str], base: CausalModel) -> None:
    """PEFT stores weights of the base model beside an adapter of its output head; they must be the base's own."""
    with safe_open(weights, framework="pt") as tensors:
        for name in names:
            own = base.parameter(name.removeprefix(PREFIX).replace(".base_layer.", "."))
            if own is None:
                raise unsupported(f"{name} is none of the base model's weights and no half of an adapter", name)
            copy = tensors.get_tensor(name).to(own)
            if copy.shape != own.shape or not torch.equal(copy, own):
                raise unsupported(f"{name} differs from the base model's own", name)

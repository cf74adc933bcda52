"""A base model with an adapter merged in, as a directory that `transformers` reads.

    <exports>/<name>/            complete, never changed
    <exports>/.<name>.<version>/ being written; what a killed process left of it goes with a later export

It is written through to the disk before it gets its name at one instant.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tinsmith_server.models import EMBEDDED_MODELS
from tinsmith_server.serving.errors import AlreadyExists
from tinsmith_server.storage import PIECE_BYTES, CheckpointFile, CheckpointStore, CheckpointUri, Manifest
from tinsmith_server.storage import files as disk
from tinsmith_server.storage.lifetime import remove_unlinked
from tinsmith_server.trainer.checkpoints.adapter_files import CONFIG, WEIGHTS, read_adapter
from tinsmith_server.trainer.checkpoints.stored_state import StoredState, read_state
from tinsmith_server.trainer.local.adapter import Adapter
from tinsmith_server.trainer.local.bases import LocalBases
from tinsmith_server.trainer.local.matrices import adapted_matrices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TEXT = ("*.json", "*.txt", "*.model", "*.jinja")
"""The files beside the weights: tokenizer, chat template, configurations."""
_SOURCE = "tinsmith_export.json"
"""The file that tells which adapter was merged in, so that a repeated export is known."""
_UNFINISHED_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Exports:
    """The folder of merged models. All methods block."""

    root: Path

    def write(self, uri: CheckpointUri, name: str, store: CheckpointStore, bases: LocalBases) -> list[CheckpointFile]:
        """Merges a checkpoint's adapter into its base model, of which a second copy is in memory meanwhile. The same
        export that is there already is the answer.

        Raises AlreadyExists with reason EXPORT_EXISTS, NotFound with reason BASE_MODEL_NOT_FOUND, ResourceExhausted
        with reason STORAGE_FULL, FailedPrecondition with reason STORAGE_NOT_WRITABLE, and as `read_state` and
        `read_adapter`.
        """
        directory = self.root / name
        source = _source(store.manifest(uri))
        if name in EMBEDDED_MODELS or (directory.exists() and not _is_of(directory, source)):
            raise _exists(name)
        if directory.exists():
            with disk.storage_errors():
                return _entries(directory)
        state = read_state(store, uri, with_optimizer=False)
        with disk.storage_errors():
            self.root.mkdir(parents=True, exist_ok=True)
            remove_unlinked(self.root, untouched_for_s=_UNFINISHED_AFTER_S)
            partial = self.root / f".{name}.{uuid.uuid4().hex}"
            try:
                return _publish(partial, directory, state, bases)
            except BaseException:
                disk.remove_folder(partial)
                raise


def _publish(partial: Path, directory: Path, state: StoredState, bases: LocalBases) -> list[CheckpointFile]:
    base = bases.directory(state.manifest.base_model)
    merged = _merged(bases.base(state.manifest.base_model).copy(), state)
    try:
        merged.save_pretrained(partial)
    except SafetensorError as error:
        raise _as_os_error(error) from error
    _copy_text(base, partial)
    (partial / _SOURCE).write_bytes(_source(state.manifest))
    files = _entries(partial)
    disk.sync_folder(partial)
    try:
        partial.rename(directory)
    except OSError as error:
        if not directory.exists():
            raise
        if not _is_of(directory, _source(state.manifest)):
            raise _exists(directory.name) from error
        disk.remove_folder(partial)  # another process has just made the same export
        return _entries(directory)
    disk.sync_folder(directory.parent)
    return files


def _as_os_error(error: SafetensorError) -> Exception:
    """What the operating system has refused, as it says so itself; safetensors has it in its text alone."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return error if found is None else OSError(int(found[1]), os.strerror(int(found[1])))


def _merged(model: "PreTrainedModel", state: StoredState) -> "PreTrainedModel":
    """The model with W + scale B A in place of each adapted W, added up in float32."""
    manifest: Manifest = state.manifest
    adapter = Adapter(adapted_matrices(model, manifest.lora), manifest.lora)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for matrix, a_RI, b_OR in adapter.split(read_adapter(state.files, adapter)):
        module = model.get_submodule(matrix.path)
        if module is head:
            _untie(model, module)
        _add(module, (b_OR @ a_RI) * adapter.scale)
    return model


def _untie(model: "PreTrainedModel", head: nn.Module) -> None:
    """An output head that shared its matrix with the embedding has one of its own from now on."""
    if model.config.tie_word_embeddings:
        head.weight = nn.Parameter(head.get_parameter("weight").detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


def _add(module: nn.Module, change_OI: Tensor) -> None:
    weight = module.get_parameter("weight")
    change = change_OI.T if isinstance(module, Conv1D) else change_OI
    with torch.no_grad():
        weight.copy_(weight.float() + change)


def _copy_text(base: Path, target: Path) -> None:
    """What lies beside the base's weights and was not written anew."""
    for path in (path for pattern in _TEXT for path in base.glob(pattern)):
        if not path.name.endswith(".index.json") and not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)


def _source(manifest: Manifest) -> bytes:
    """What `_SOURCE` says of an adapter: its base model and the checksums of its files."""
    files = {file.name: file.sha256 for file in manifest.files if file.name in (CONFIG, WEIGHTS)}
    return json.dumps({"base_model": manifest.base_model, "files": files}, indent=1, sort_keys=True).encode()


def _is_of(directory: Path, source: bytes) -> bool:
    written = directory / _SOURCE
    return written.is_file() and written.read_bytes() == source


def _entries(directory: Path) -> list[CheckpointFile]:
    return [_synced(path) for path in sorted(directory.iterdir())]


def _synced(path: Path) -> CheckpointFile:
    """A file's entry, once the file is on the disk."""
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            checksum.update(piece)
        os.fsync(file.fileno())
        return CheckpointFile(name=path.name, size_bytes=file.tell(), sha256=checksum.hexdigest())


def _exists(name: str) -> AlreadyExists:
    return AlreadyExists(
        f"there is a model {name!r} already; choose another name", reason="EXPORT_EXISTS", metadata={"name": name}
    )

"""What a checkpoint is, and `manifest.json`, which says so beside its files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.storage.uri import CheckpointUri

_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraShape:
    """Configuration of an adapter, defaults filled in; see `LoraConfig` of the contract."""

    rank: int
    alpha: float
    seed: int = 0
    train_attention: bool = True
    train_mlp: bool = True
    train_unembedding: bool = True
    target_modules: tuple[str, ...] = ()
    """Paths of matrices, or endings of paths, that are adapted alone; not empty: the three switches do not count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFile:
    """One file of a checkpoint."""

    name: str
    size_bytes: int
    sha256: str
    """64 hexadecimal digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointDraft:
    """A checkpoint that is about to be published."""

    uri: CheckpointUri
    step: int
    """Optimizer steps applied when it was saved."""
    base_model: str
    lora: LoraShape
    expire_time: datetime | None = None
    """When it is to be deleted; None keeps it."""
    ephemeral: bool = False
    """Only kept until newer ones replace it."""
    published: bool = False
    """Whether other tenants may read it."""
    owner: str = ""
    """The tenant whose it is; empty where no API keys are asked for."""
    user_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest(CheckpointDraft):
    """A checkpoint in storage."""

    files: tuple[CheckpointFile, ...]
    create_time: datetime
    version: str
    """Which of the checkpoints that were published under this URI; a reader never mixes two of them."""

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)


class BadManifest(Exception):
    """The bytes are not a manifest, or were changed since they were written."""


def encode(manifest: Manifest) -> bytes:
    """`manifest.json`: it carries a checksum of itself."""
    fields = {"format": _FORMAT, **asdict(manifest), "uri": str(manifest.uri)}
    fields["create_time"] = manifest.create_time.isoformat()
    fields["expire_time"] = manifest.expire_time and manifest.expire_time.isoformat()
    return json.dumps({**fields, "sha256": _checksum(fields)}, indent=1).encode()


def decode(content: bytes) -> Manifest:
    """Reads `manifest.json`. Raises BadManifest when it is damaged or from a newer program."""
    try:
        fields = json.loads(content)
        checksum = fields.pop("sha256")
        if fields.pop("format") != _FORMAT:
            raise BadManifest("its format is not known to this version")
        if checksum != _checksum({"format": _FORMAT, **fields}):
            raise BadManifest("its own checksum differs")
        return _of_fields(fields)
    except (ValueError, KeyError, TypeError, AttributeError, InvalidArgument) as error:
        raise BadManifest("it is not a manifest") from error


def _of_fields(fields: dict[str, Any]) -> Manifest:
    expire_time = fields["expire_time"]
    fields |= {
        "uri": CheckpointUri.parse(fields["uri"]),
        "lora": _lora(fields["lora"]),
        "files": tuple(CheckpointFile(**file) for file in fields["files"]),
        "create_time": datetime.fromisoformat(fields["create_time"]),
        "expire_time": None if expire_time is None else datetime.fromisoformat(expire_time),
    }
    return Manifest(**fields)


def _lora(fields: dict[str, Any]) -> LoraShape:
    return LoraShape(**{**fields, "target_modules": tuple(fields.get("target_modules", ()))})


def _checksum(fields: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

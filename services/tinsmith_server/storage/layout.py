"""Where checkpoints lie.

<root>/<model id>/<kind>/<name>               a symbolic link: what is published
<root>/<model id>/<kind>/.<name>.<version>/   what it points to: manifest.json and the files, never changed
<root>/<model id>/.live                       when a trainer last said that it keeps this model (see `lifetime.py`)
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tinsmith_server.serving.errors import DataLoss, NotFound
from tinsmith_server.storage.errors import corrupt, not_found
from tinsmith_server.storage.manifest import BadManifest, Manifest, decode
from tinsmith_server.storage.uri import SAMPLER, TRAINING, CheckpointUri

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """Places below one root. All methods block."""

    root: Path

    def link(self, uri: CheckpointUri) -> Path:
        """Where a checkpoint is published."""
        return self.root / uri.model_id / uri.kind / uri.name

    def folder(self, uri: CheckpointUri, version: str) -> Path:
        """Where one version of a checkpoint has its files."""
        return self.link(uri).with_name(f".{uri.name}.{version}")

    def live_mark(self, model_id: str) -> Path:
        """The file whose time says when a trainer last kept this model."""
        return self.root / model_id / ".live"

    def manifest(self, uri: CheckpointUri) -> Manifest:
        """What is published under a URI, whether its time is over or not. NotFound with reason CHECKPOINT_NOT_FOUND,
        DataLoss with reason CHECKPOINT_CORRUPT."""
        path = self.link(uri) / MANIFEST
        try:
            manifest = decode(path.read_bytes())
        except FileNotFoundError:
            if not path.parent.exists():
                raise not_found(uri) from None
            raise corrupt(uri, MANIFEST, "is missing") from None
        except BadManifest as error:
            raise corrupt(uri, MANIFEST, f"can't be used: {error}") from error
        if manifest.uri != uri:
            raise corrupt(uri, MANIFEST, "belongs to another checkpoint")
        return manifest

    def uris(self, model_id: str = "", kind: str = "") -> Iterator[CheckpointUri]:
        """Everything that is published, of one model or kind or of all."""
        for folder in self.kind_folders(model_id, kind):
            model = folder.parent.name
            for name in _names(folder):
                if CheckpointUri.fits(model_id=model, name=name):
                    yield CheckpointUri(model_id=model, kind=folder.name, name=name)

    def kind_folders(self, model_id: str = "", kind: str = "") -> Iterator[Path]:
        """The folders that hold links, whether they are there or not."""
        for model in [model_id] if model_id else _names(self.root):
            yield from (self.root / model / each for each in ([kind] if kind else [TRAINING, SAMPLER]))

    def newest_first(self, model_id: str, kind: str) -> list[CheckpointUri]:
        """What is published of a model and kind, the damaged too."""
        return sorted(self.uris(model_id, kind), key=self._publish_time, reverse=True)

    def _publish_time(self, uri: CheckpointUri) -> datetime:
        """As its manifest says; when that can't be read, as the link says."""
        try:
            return self.manifest(uri).create_time
        except (NotFound, DataLoss):
            return _changed(self.link(uri))


def _changed(link: Path) -> datetime:
    try:
        return datetime.fromtimestamp(link.lstat().st_mtime, UTC)
    except FileNotFoundError:
        return datetime.min.replace(tzinfo=UTC)


def _names(folder: Path) -> list[str]:
    """What is visible in a folder, sorted; nothing when there is no such folder."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []

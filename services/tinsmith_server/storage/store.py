"""Checkpoints as files.

    <root>/<model id>/<kind>/<name>               a symbolic link: what is published
    <root>/<model id>/<kind>/.<name>.<version>/   what it points to: manifest.json and the files, never changed

A checkpoint is written into a hidden folder of its own; making the link, or moving a new link over the old one,
publishes it at one instant. A process killed anywhere leaves the old checkpoint or the new one, and at most a hidden
folder that no link points to, which `sweep` removes. A published checkpoint is an ordinary PEFT folder.
"""

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tinsmith_server.serving.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound
from tinsmith_server.storage import files as disk
from tinsmith_server.storage.manifest import (
    BadManifest,
    CheckpointDraft,
    CheckpointFile,
    Manifest,
    decode,
    encode,
)
from tinsmith_server.storage.uri import SAMPLER, TRAINING, CheckpointUri

_MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)


class CheckpointStore:
    """Checkpoints below one folder, which several processes may share. All methods block."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def prepare(self) -> None:
        """Makes the root. FailedPrecondition with reason STORAGE_NOT_WRITABLE when nothing can be written there; the
        message is for the operator of this process and names the path."""
        probe = self._root / f".probe.{uuid.uuid4().hex}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise FailedPrecondition(
                f"can't keep checkpoints in {self._root}: {error.strerror}; make it writable or choose another folder "
                "with setting checkpoint_root",
                reason="STORAGE_NOT_WRITABLE",
            ) from error

    def publish(
        self, draft: CheckpointDraft, files: Mapping[str, bytes], *, durable: bool, overwrite: bool = False
    ) -> Manifest:
        """Stores a checkpoint. With `durable` it survives a power failure once this returns.

        Raises AlreadyExists with reason CHECKPOINT_EXISTS (unless `overwrite`), ResourceExhausted with reason
        STORAGE_FULL; nothing is left of it then.
        """
        manifest = Manifest(
            **_fields(draft),
            files=tuple(CheckpointFile.of(name, content) for name, content in files.items()),
            create_time=datetime.now(UTC),
            version=uuid.uuid4().hex,
        )
        with disk.storage_errors():
            if not overwrite:
                self._refuse_if_taken(draft.uri)
            folder = self._folder(manifest)
            try:
                _fill(folder, manifest, files, durable=durable)
                replaced = self._link(folder, draft.uri, overwrite=overwrite)
            except BaseException:
                disk.remove_folder(folder)
                raise
            if durable:
                self._sync_names(draft.uri)
            if replaced is not None:
                disk.remove_folder(replaced)
        return manifest

    def manifest(self, uri: CheckpointUri) -> Manifest:
        """What is stored under a URI. NotFound with reason CHECKPOINT_NOT_FOUND when nothing is, or its time is over;
        DataLoss with reason CHECKPOINT_CORRUPT when the manifest is damaged."""
        manifest = self._read_manifest(self._link_of(uri) / _MANIFEST, uri)
        if manifest.expire_time is not None and manifest.expire_time <= datetime.now(UTC):
            raise _not_found(uri)
        return manifest

    def read(self, manifest: Manifest, file_name: str) -> bytes:
        """A file's content, verified.

        NotFound with reason CHECKPOINT_NOT_FOUND when the checkpoint was deleted or replaced since its manifest was
        read; DataLoss with reason CHECKPOINT_CORRUPT when size or checksum differ.
        """
        listed = {file.name: file for file in manifest.files}
        if file_name not in listed:
            raise DataLoss(
                f"{manifest.uri} has no {file_name}; it holds {', '.join(listed) or 'nothing'}",
                reason="CHECKPOINT_CORRUPT",
                metadata={"uri": str(manifest.uri), "file": file_name},
            )
        folder = self._folder(manifest)
        try:
            content = (folder / file_name).read_bytes()
        except FileNotFoundError:
            if not folder.exists():
                raise _not_found(manifest.uri) from None
            raise _corrupt(manifest.uri, file_name, "is missing") from None
        if len(content) != listed[file_name].size_bytes:
            raise _corrupt(manifest.uri, file_name, f"has {len(content)} bytes, not {listed[file_name].size_bytes}")
        if hashlib.sha256(content).hexdigest() != listed[file_name].sha256:
            raise _corrupt(manifest.uri, file_name, "is not what was written (its SHA-256 differs)")
        return content

    def list(self, *, model_id: str = "", kind: str = "") -> list[Manifest]:
        """Checkpoints by model, oldest first within one. Damaged ones are left out and logged; `manifest` tells of
        them."""
        if model_id and not CheckpointUri.fits(model_id=model_id, name="any"):
            return []
        found = []
        for uri in self._uris(model_id, kind):
            try:
                found.append(self.manifest(uri))
            except NotFound:
                continue
            except DataLoss as error:
                _log.warning("left out of a listing: %s", error.message)
        return sorted(found, key=lambda item: (item.uri.model_id, item.create_time, item.uri.kind, item.uri.name))

    def update(self, uri: CheckpointUri, *, expire_time: datetime | None, published: bool) -> Manifest:
        """Changes what may change of a checkpoint. Errors as `manifest`."""
        manifest = replace(self.manifest(uri), expire_time=expire_time, published=published)
        with disk.storage_errors():
            disk.replace(self._folder(manifest) / _MANIFEST, encode(manifest))
        return manifest

    def copy(self, source: CheckpointUri, target: CheckpointUri) -> Manifest:
        """Publishes a verified copy that is kept, whatever the life time of the source. Errors as `manifest`, `read`
        and `publish`."""
        manifest = self.manifest(source)
        files = {file.name: self.read(manifest, file.name) for file in manifest.files}
        draft = replace(_draft(manifest), uri=target, expire_time=None, ephemeral=False, published=False)
        return self.publish(draft, files, durable=True)

    def delete(self, uri: CheckpointUri) -> bool:
        """Deletes a checkpoint; False when there was none."""
        link = self._link_of(uri)
        try:
            target = os.readlink(link)
            with disk.storage_errors():
                link.unlink()
                disk.remove_folder(link.parent / target)
        except FileNotFoundError:
            return False
        return True

    def sweep(self, *, unfinished_after_s: float = 3600.0) -> int:
        """Removes expired checkpoints, and what interrupted writes left behind if nobody touched it for
        `unfinished_after_s`. Returns how many folders went."""
        now = datetime.now(UTC)
        removed = 0
        for uri in self._uris():
            try:
                manifest = self._read_manifest(self._link_of(uri) / _MANIFEST, uri)
            except (NotFound, DataLoss):
                continue  # what can't be read is kept for whoever wants to save what can be saved
            if manifest.expire_time is not None and manifest.expire_time <= now:
                removed += self.delete(uri)
        for folder in self._kind_folders():
            removed += _remove_unlinked(folder, older_than=time.time() - unfinished_after_s)
        return removed

    def _link_of(self, uri: CheckpointUri) -> Path:
        return self._root / uri.model_id / uri.kind / uri.name

    def _folder(self, manifest: Manifest) -> Path:
        return self._link_of(manifest.uri).with_name(f".{manifest.uri.name}.{manifest.version}")

    def _refuse_if_taken(self, uri: CheckpointUri) -> None:
        if self._link_of(uri).is_symlink():
            raise _exists(uri)

    def _link(self, folder: Path, uri: CheckpointUri, *, overwrite: bool) -> Path | None:
        """Publishes a filled folder; returns the one that it took the place of."""
        link = self._link_of(uri)
        if not overwrite:
            try:
                link.symlink_to(folder.name)
            except FileExistsError:
                raise _exists(uri) from None
            return None
        before = link.parent / os.readlink(link) if link.is_symlink() else None
        fresh = folder / ".link"
        fresh.symlink_to(folder.name)
        fresh.rename(link)
        return before

    def _sync_names(self, uri: CheckpointUri) -> None:
        """Makes the link durable, and the folders above it, which an ephemeral checkpoint may have made before."""
        for place in (self._link_of(uri).parent, self._root / uri.model_id, self._root):
            disk.sync_folder(place)

    def _read_manifest(self, path: Path, uri: CheckpointUri) -> Manifest:
        try:
            manifest = decode(path.read_bytes())
        except FileNotFoundError:
            if not path.parent.exists():
                raise _not_found(uri) from None
            raise _corrupt(uri, _MANIFEST, "is missing") from None
        except BadManifest as error:
            raise _corrupt(uri, _MANIFEST, f"can't be used: {error}") from error
        if manifest.uri != uri:
            raise _corrupt(uri, _MANIFEST, "belongs to another checkpoint")
        return manifest

    def _kind_folders(self, model_id: str = "", kind: str = "") -> Iterator[Path]:
        for model in [model_id] if model_id else _names(self._root):
            yield from (self._root / model / each for each in ([kind] if kind else [TRAINING, SAMPLER]))

    def _uris(self, model_id: str = "", kind: str = "") -> Iterator[CheckpointUri]:
        for folder in self._kind_folders(model_id, kind):
            model = folder.parent.name
            for name in _names(folder):
                if CheckpointUri.fits(model_id=model, name=name):
                    yield CheckpointUri(model_id=model, kind=folder.name, name=name)


def _fields(draft: CheckpointDraft) -> dict[str, Any]:
    return {field.name: getattr(draft, field.name) for field in fields(CheckpointDraft)}


def _draft(manifest: Manifest) -> CheckpointDraft:
    return CheckpointDraft(**_fields(manifest))


def _fill(folder: Path, manifest: Manifest, files: Mapping[str, bytes], *, durable: bool) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        disk.write(folder / name, content, durable=durable)
    disk.write(folder / _MANIFEST, encode(manifest), durable=durable)
    if durable:
        disk.sync_folder(folder)


def _names(folder: Path) -> list[str]:
    """What is visible in a folder, sorted; nothing when there is no such folder."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove_unlinked(folder: Path, *, older_than: float) -> int:
    """Removes hidden folders that no link points to and that were last changed before `older_than`."""
    removed = 0
    try:
        hidden = [entry for entry in os.scandir(folder) if entry.name.startswith(".") and entry.is_dir()]
    except FileNotFoundError:
        return 0
    for entry in hidden:
        name = entry.name[1:].rpartition(".")[0]
        linked = _target(folder / name) == entry.name
        if not linked and _changed(Path(entry.path)) < older_than:
            disk.remove_folder(Path(entry.path))
            removed += 1
    return removed


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return None


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _exists(uri: CheckpointUri) -> AlreadyExists:
    return AlreadyExists(
        f"there is a checkpoint {uri}; choose another name or overwrite it",
        reason="CHECKPOINT_EXISTS",
        metadata={"uri": str(uri)},
    )


def _not_found(uri: CheckpointUri) -> NotFound:
    return NotFound(
        f"there is no checkpoint {uri}; it was never saved, or deleted since",
        reason="CHECKPOINT_NOT_FOUND",
        metadata={"uri": str(uri)},
    )


def _corrupt(uri: CheckpointUri, file_name: str, what: str) -> DataLoss:
    return DataLoss(
        f"{uri} is damaged: {file_name} {what}; use an older checkpoint",
        reason="CHECKPOINT_CORRUPT",
        metadata={"uri": str(uri), "file": file_name},
    )

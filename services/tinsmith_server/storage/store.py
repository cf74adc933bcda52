"""Checkpoints as files; `layout.py` says where.

A checkpoint is written into a hidden folder of its own; moving a link to its name, over an old one or none, publishes
it at one instant. A process killed anywhere leaves the old checkpoint or the new one, and at most a hidden
folder that no link points to, which `sweep` removes. A published checkpoint is an ordinary PEFT folder.
"""

import logging
import os
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from tinsmith_server.serving import visible_owner
from tinsmith_server.serving.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound, ServiceError
from tinsmith_server.storage import files as disk
from tinsmith_server.storage import reading
from tinsmith_server.storage.errors import exists, not_found, reserved
from tinsmith_server.storage.layout import MANIFEST, Layout
from tinsmith_server.storage.lifetime import Clock, LifeTimes, remove_unlinked, utc_now
from tinsmith_server.storage.manifest import CheckpointDraft, Manifest, encode
from tinsmith_server.storage.staging import Staging
from tinsmith_server.storage.uri import CheckpointUri

_log = logging.getLogger(__name__)


class CheckpointStore:
    """Checkpoints below one folder, which several processes may share. All methods block."""

    def __init__(self, root: Path, *, clock: Clock = utc_now, viewer: Callable[[], str | None] = visible_owner) -> None:
        """`viewer` says which tenant's checkpoints may be seen and touched at the moment; None is everybody's. What
        others have published may be seen."""
        self._layout = Layout(root)
        self._viewer = viewer
        self._clock = clock
        self._lifetimes = LifeTimes(self._layout, clock)

    def prepare(self) -> None:
        """Makes the root. FailedPrecondition with reason STORAGE_NOT_WRITABLE when nothing can be written there; the
        message is for the operator of this process and names the path."""
        root = self._layout.root
        probe = root / f".probe.{uuid.uuid4().hex}"
        try:
            root.mkdir(parents=True, exist_ok=True)
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise FailedPrecondition(
                f"can't keep checkpoints in {root}: {error.strerror}; make it writable or choose another folder "
                "with setting checkpoint_root",
                reason="STORAGE_NOT_WRITABLE",
            ) from error

    def publish(
        self, draft: CheckpointDraft, files: Mapping[str, bytes], *, durable: bool, overwrite: bool = False
    ) -> Manifest:
        """Stores a checkpoint. With `durable` it survives a power failure once this returns. Errors as `stage`."""
        with self._staged(draft.uri, durable=durable, overwrite=overwrite) as staging:
            for name, content in files.items():
                staging.add(name, [content])
            return self.commit(staging, draft, overwrite=overwrite)

    def stage(self, uri: CheckpointUri, *, durable: bool, overwrite: bool = False) -> Staging:
        """Begins to write a checkpoint: the caller fills what this returns, then calls `commit`, or discards it.

        Raises AlreadyExists with reason CHECKPOINT_EXISTS (unless `overwrite`), InvalidArgument with reason
        RESERVED_NAME, ResourceExhausted with reason STORAGE_FULL, FailedPrecondition with reason STORAGE_NOT_WRITABLE.
        """
        if uri.is_latest:
            raise reserved()
        self._refuse_if_taken(uri, overwrite=overwrite)
        version = uuid.uuid4().hex
        return Staging(self._layout.folder(uri, version), version=version, durable=durable)

    def commit(self, staging: Staging, draft: CheckpointDraft, *, overwrite: bool = False) -> Manifest:
        """Publishes what was staged for the draft's URI. Errors as `stage`; nothing is published then."""
        manifest = Manifest(
            **_fields(draft) | {"owner": self._viewer() or draft.owner},
            files=tuple(staging.files),
            create_time=self._clock(),
            version=staging.version,
        )
        with disk.storage_errors():
            with staging.publishing:
                if staging.is_discarded:
                    raise not_found(draft.uri)
                disk.write(staging.folder / MANIFEST, encode(manifest), durable=staging.durable)
                if staging.durable:
                    disk.sync_folder(staging.folder)
                replaced = self._link(staging.folder, draft.uri, overwrite=overwrite)
                staging.is_published = True
            if staging.durable:
                self._sync_names(draft.uri)
            self._remove_version(draft.uri, replaced)
        return manifest

    def manifest(self, uri: CheckpointUri) -> Manifest:
        """What is stored under a URI. NotFound with reason CHECKPOINT_NOT_FOUND when nothing is, or its time is over;
        DataLoss with reason CHECKPOINT_CORRUPT when the manifest is damaged."""
        try:
            manifest = self._layout.manifest(uri)
        except DataLoss:
            if self._is_foreign(uri.model_id):
                raise not_found(uri) from None
            raise
        may_see = manifest.published or self._viewer() in (None, manifest.owner)
        if self._lifetimes.is_over(manifest) or not may_see:
            raise not_found(uri)
        return manifest

    def read(self, manifest: Manifest, file_name: str) -> bytes:
        """A file's content, verified. Errors as `pieces`."""
        return b"".join(self.pieces(manifest, file_name))

    def pieces(self, manifest: Manifest, file_name: str) -> Generator[bytes, None, None]:
        """A file's content in pieces of PIECE_BYTES; whoever has taken the last one knows that it is whole.

        NotFound with reason CHECKPOINT_NOT_FOUND when the checkpoint was deleted or replaced since its manifest was
        read; DataLoss with reason CHECKPOINT_CORRUPT when there is no such file or size or checksum differ.
        """
        return reading.pieces(self.path(manifest, file_name), manifest, file_name)

    def path(self, manifest: Manifest, file_name: str) -> Path:
        """Where a file lies, for readers that need it in place; it may go at any time."""
        return self._layout.folder(manifest.uri, manifest.version) / file_name

    def list(self, *, model_id: str = "", kind: str = "") -> list[Manifest]:
        """Checkpoints by model, oldest first within one. Damaged ones are left out and logged; `manifest` tells of
        them."""
        if model_id and not CheckpointUri.fits(model_id=model_id, name="any"):
            return []
        found = []
        for uri in self._layout.uris(model_id, kind):
            try:
                found.append(self.manifest(uri))
            except NotFound:
                continue
            except DataLoss as error:
                _log.warning("left out of a listing: %s", error.message)
        return sorted(found, key=lambda item: (item.uri.model_id, item.create_time, item.uri.kind, item.uri.name))

    def newest_first(self, model_id: str, kind: str) -> Sequence[CheckpointUri]:
        """What is stored of a model and kind, damaged or not."""
        return self._layout.newest_first(model_id, kind)

    def set_expire_time(self, uri: CheckpointUri, expire_time: datetime | None) -> Manifest:
        """Says when a checkpoint is to be deleted; None keeps it. Errors as `manifest`."""
        return self._change(uri, expire_time=expire_time)

    def set_published(self, uri: CheckpointUri, published: bool) -> Manifest:
        """Says whether other tenants may read a checkpoint. Errors as `manifest`."""
        return self._change(uri, published=published)

    def copy(self, source: CheckpointUri, target: CheckpointUri) -> Manifest:
        """Publishes a verified copy that is kept, whatever the life time of the source; a copy that is there already is
        the answer. Errors as `manifest`, `pieces` and `stage`."""
        manifest = self.manifest(source)
        try:
            with self._staged(target, durable=True, overwrite=False) as staging:
                for file in manifest.files:
                    staging.add(file.name, self.pieces(manifest, file.name))
                draft = replace(_draft(manifest), uri=target, expire_time=None, ephemeral=False, published=False)
                return self.commit(staging, draft)
        except AlreadyExists as taken:
            try:
                there = self.manifest(target)
            except NotFound:  # another tenant's, or gone by now
                raise taken from None
            if (there.files, there.step, there.base_model) != (manifest.files, manifest.step, manifest.base_model):
                raise
            return there

    def delete(self, uri: CheckpointUri, *, version: str = "") -> bool:
        """Deletes a checkpoint, if a version is given only that one; False when there was none."""
        if self._is_foreign(uri.model_id):
            return False
        return self._take_away(uri, lambda: not version or self._layout.manifest(uri).version == version)

    def mark_live(self, model_ids: Iterable[str]) -> None:
        """Says that a trainer keeps these models, for the next minutes; see `lifetime.py`."""
        self._lifetimes.mark_live(model_ids)

    def forget_live(self, model_id: str) -> None:
        """Says that this model is kept no more."""
        self._lifetimes.forget_live(model_id)

    def sweep(self, *, unfinished_after_s: float = 600.0) -> int:
        """Removes checkpoints whose time is over, and what interrupted writes left behind if nobody touched it for
        `unfinished_after_s`. Returns how many folders went."""
        removed = 0
        for uri in self._layout.uris():
            try:
                removed += self._is_over(uri) and self._take_away(uri, partial(self._is_over, uri))
            except (ServiceError, OSError):
                _log.warning("could not remove %s, whose time is over", uri, exc_info=True)
        for folder in self._layout.kind_folders():
            removed += remove_unlinked(folder, untouched_for_s=unfinished_after_s, changing=self._changing)
        return removed

    def _is_over(self, uri: CheckpointUri) -> bool:
        """What can't be read is kept for whoever wants to save what can be saved."""
        try:
            return self._lifetimes.is_over(self._layout.manifest(uri))
        except (NotFound, DataLoss):
            return False

    def _change(self, uri: CheckpointUri, **changes: Any) -> Manifest:
        with disk.storage_errors(), self._changing():
            manifest = replace(self.manifest(uri), **changes)
            if self._is_foreign(uri.model_id):
                raise not_found(uri)
            disk.replace(self.path(manifest, MANIFEST), encode(manifest))
        return manifest

    def _take_away(self, uri: CheckpointUri, is_wanted: Callable[[], bool]) -> bool:
        """Removes a checkpoint, if it is there and wanted at that instant."""
        link = self._layout.link(uri)
        try:
            with disk.storage_errors():
                with self._changing():
                    if not is_wanted():
                        return False
                    version = os.readlink(link)
                    link.unlink()
                self._remove_version(uri, version)
        except FileNotFoundError:
            return False
        return True

    def _changing(self) -> AbstractContextManager[None]:
        """Around what reads names or manifests and changes them: nobody else changes any meanwhile."""
        return disk.locked(self._layout.root / ".lock")

    def _refuse_if_taken(self, uri: CheckpointUri, *, overwrite: bool) -> None:
        link = self._layout.link(uri)
        is_taken = os.path.lexists(link) and not self._is_over(uri) and (link.exists() or not link.is_symlink())
        if self._is_foreign(uri.model_id) or (is_taken and not overwrite):
            raise exists(uri)

    def _is_foreign(self, model_id: str) -> bool:
        """Whether the checkpoints of this model are another tenant's: all are whose one is that can be read."""
        viewer = self._viewer()
        if viewer is None:
            return False
        for uri in self._layout.uris(model_id, ""):
            try:
                return self._layout.manifest(uri).owner != viewer
            except (NotFound, DataLoss):
                continue
        return False

    @contextmanager
    def _staged(self, uri: CheckpointUri, *, durable: bool, overwrite: bool) -> Iterator[Staging]:
        """`stage`, and nothing is left of it after an error."""
        staging = self.stage(uri, durable=durable, overwrite=overwrite)
        try:
            yield staging
        except BaseException:
            staging.discard()
            raise

    def _link(self, folder: Path, uri: CheckpointUri, *, overwrite: bool) -> str:
        """Publishes a filled folder; returns what the link named before, empty when there was none."""
        link = self._layout.link(uri)
        with self._changing():
            self._refuse_if_taken(uri, overwrite=overwrite)
            before = os.readlink(link) if link.is_symlink() else ""
            fresh = folder / ".link"
            fresh.symlink_to(folder.name)
            fresh.rename(link)
        return before

    def _remove_version(self, uri: CheckpointUri, target: str) -> None:
        """Removes what a link named, unless it lies elsewhere: then somebody else put it there."""
        if target.startswith(f".{uri.name}.") and os.sep not in target:
            disk.remove_folder(self._layout.link(uri).with_name(target))

    def _sync_names(self, uri: CheckpointUri) -> None:
        """Makes the link durable, and the folders above it, which an ephemeral checkpoint may have made before."""
        root = self._layout.root
        for place in (root / uri.model_id / uri.kind, root / uri.model_id, root):
            disk.sync_folder(place)


def _fields(draft: CheckpointDraft) -> dict[str, Any]:
    return {field.name: getattr(draft, field.name) for field in fields(CheckpointDraft)}


def _draft(manifest: Manifest) -> CheckpointDraft:
    return CheckpointDraft(**_fields(manifest))

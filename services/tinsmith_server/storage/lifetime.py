"""When checkpoints end: their time is over, and nobody needs them. Ephemeral weights end with their model.

A published checkpoint does not end, nor does the newest training checkpoint of a model that a trainer keeps: it is what
training would go on from. Trainers mark their models in storage, because another process may be the one that sweeps.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tinsmith_server.serving.errors import DataLoss, NotFound
from tinsmith_server.storage import files as disk
from tinsmith_server.storage.layout import Layout
from tinsmith_server.storage.manifest import Manifest
from tinsmith_server.storage.uri import TRAINING

Clock = Callable[[], datetime]
Changing = Callable[[], AbstractContextManager[None]]

_LIVE_FOR = timedelta(minutes=10)
"""How long a mark holds; those who keep models renew theirs several times within it."""

_EPHEMERAL_FOR = timedelta(days=1)
"""How long ephemeral weights outlive the last sign of their model: whoever still samples from them has the time."""

_NEVER = datetime.min.replace(tzinfo=UTC)
_HIDDEN = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}")
"""Names of the folders in which something is prepared."""

_log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


class LifeTimes:
    """Tells what is over. All methods block."""

    def __init__(self, layout: Layout, clock: Clock) -> None:
        self._layout, self._clock = layout, clock

    def mark_live(self, model_ids: Iterable[str]) -> None:
        """Says that these models are kept. One without checkpoints has nothing to be marked."""
        now = self._clock().timestamp()
        for model_id in model_ids:
            mark = self._layout.live_mark(model_id)
            try:
                mark.touch()
                os.utime(mark, (now, now))
            except FileNotFoundError:
                continue
            except OSError:  # a mark is made again and again, and matters to what is about to end alone
                _log.warning("could not mark in storage that model %s is kept", model_id, exc_info=True)

    def forget_live(self, model_id: str) -> None:
        """Says that this model is not kept any more."""
        over = (self._clock() - _LIVE_FOR).timestamp()
        with suppress(FileNotFoundError):
            os.utime(self._layout.live_mark(model_id), (over, over))

    def is_over(self, manifest: Manifest) -> bool:
        """Whether a checkpoint has come to its end."""
        now, model_id = self._clock(), manifest.uri.model_id
        if manifest.published:
            return False
        kept_until = self._kept_until(model_id)
        if manifest.ephemeral and max(manifest.create_time, kept_until) + _EPHEMERAL_FOR <= now:
            return True
        if manifest.expire_time is None or manifest.expire_time > now:
            return False
        return not (now < kept_until and self._is_newest_training(manifest))

    def _kept_until(self, model_id: str) -> datetime:
        try:
            marked = self._layout.live_mark(model_id).stat().st_mtime
        except FileNotFoundError:
            return _NEVER
        return datetime.fromtimestamp(marked, UTC) + _LIVE_FOR

    def _is_newest_training(self, manifest: Manifest) -> bool:
        if manifest.uri.kind != TRAINING:
            return False
        for other in self._layout.newest_first(manifest.uri.model_id, TRAINING):
            with suppress(NotFound, DataLoss):  # from those, training can't go on
                return self._layout.manifest(other).uri == manifest.uri
        return False


def remove_unlinked(folder: Path, *, untouched_for_s: float, changing: Changing = nullcontext) -> int:
    """Removes folders named .NAME.VERSION that no link points to and in which nothing was written for so long: what
    interrupted writers left. Returns how many. Nobody makes a link while `changing` is entered."""
    removed = 0
    try:
        hidden = [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(".") and entry.is_dir()]
    except FileNotFoundError:
        return 0
    for path in hidden:
        if _is_left_over(path, untouched_for_s):
            with changing():
                if _is_left_over(path, untouched_for_s):
                    disk.remove_folder(path)
                    removed += 1
    return removed


def _is_left_over(folder: Path, untouched_for_s: float) -> bool:
    named = _HIDDEN.fullmatch(folder.name)
    if named is None:  # it is none of ours
        return False
    link = folder.with_name(named["name"])
    is_linked = link.is_symlink() and _target(link) == folder.name
    return not is_linked and _last_write(folder) < time.time() - untouched_for_s


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return None


def _last_write(folder: Path) -> float:
    """When the folder or a file in it was last changed."""
    try:
        return max(path.lstat().st_mtime for path in [folder, *folder.iterdir()])  # a link may point nowhere yet
    except FileNotFoundError:
        return float("inf")

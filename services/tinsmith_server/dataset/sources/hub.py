"""Datasets of the Hugging Face hub, or of a local folder of the same shape.

`datasets` is imported at first use: it takes seconds, and the built-in problem sets do not need it.
"""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tinsmith_server.dataset.rows import Rows
from tinsmith_server.dataset.sources.hub_rows import HubRows
from tinsmith_server.dataset.sources.hub_stream import HubStream
from tinsmith_server.dataset.spec import HubSource
from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument, NotFound, ServiceError, Unavailable

_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_MIRROR_HINT = "set mirror_root of the dataset process to a folder that holds organisation/name"

_log = logging.getLogger(__name__)


class Hub:
    """Opens datasets by id: from the mirror where it has them, else from the hub."""

    def __init__(self, *, mirror: Path | None, cache: Path) -> None:
        self._mirror = mirror
        self._cache = cache

    def open(self, source: HubSource) -> Rows:
        """The rows of a dataset; blocks, and downloads unless it streams.

        NotFound DATASET_NOT_FOUND for the id or the split; InvalidArgument CONFIG_REQUIRED lists configurations;
        FailedPrecondition HUB_OFFLINE; Unavailable HUB_UNREACHABLE.
        """
        import datasets

        datasets.disable_progress_bars()
        location = self._location(source.id)
        revision = source.revision or None if location == source.id else None
        try:
            split = source.split or _only_split(self._splits(location, source, revision), source)
            loaded = datasets.load_dataset(
                location,
                name=source.config or None,
                split=split,
                revision=revision,
                streaming=source.streaming,
                cache_dir=str(self._cache),
            )
        except ServiceError:
            raise
        except Exception as error:  # `datasets` and its HTTP clients raise from a dozen hierarchies
            raise self._failure(source, location, error) from error
        return HubStream(loaded) if source.streaming else HubRows(loaded)

    def _location(self, id: str) -> str:
        """The folder of the mirror, or the id itself."""
        if not _ID.fullmatch(id):
            raise NotFound(
                f"{id!r} is no hub id; one is organisation/name", reason="DATASET_NOT_FOUND", metadata={"dataset": id}
            )
        folder = self._mirror / id if self._mirror is not None else None
        return str(folder.resolve()) if folder is not None and folder.is_dir() else id

    def _splits(self, location: str, source: HubSource, revision: str | None) -> Sequence[str]:
        import datasets

        names: list[str] = datasets.get_dataset_split_names(location, source.config or None, revision=revision)
        return names

    def _failure(self, source: HubSource, location: str, error: Exception) -> ServiceError:
        """What the caller may know; paths of the mirror stay in the log."""
        _log.info("can't open %s", source.id, exc_info=error)
        metadata = {"dataset": source.id, "config": source.config, "split": source.split}
        text = str(error).replace(location, source.id)
        if "Config name is missing" in text or "BuilderConfig" in text:
            configs = self._configs(location)
            wanted = f"has no configuration {source.config!r}" if source.config else "needs a configuration"
            return InvalidArgument(
                f"{source.id} {wanted}; there are {', '.join(configs)}",
                reason="CONFIG_REQUIRED",
                metadata=metadata | {"configs": ",".join(configs)},
            )
        if _is_offline(error):
            return FailedPrecondition(
                f"{source.id} is not in the cache and HF_HUB_OFFLINE is set; unset it, or {_MIRROR_HINT}",
                reason="HUB_OFFLINE",
                metadata=metadata,
            )
        if isinstance(error, ConnectionError):
            return Unavailable(
                f"the hub can't be reached for {source.id}; {_MIRROR_HINT}",
                reason="HUB_UNREACHABLE",
                metadata=metadata,
                retry_after_s=5.0,
            )
        what = re.sub(r"/\S*/", "", text.splitlines()[0]) if text else type(error).__name__
        return NotFound(f"can't open {source.id}: {what}", reason="DATASET_NOT_FOUND", metadata=metadata)

    def _configs(self, location: str) -> list[str]:
        import datasets

        names: list[str] = datasets.get_dataset_config_names(location)
        return names


def _only_split(names: Sequence[str], source: HubSource) -> str:
    """The split that is meant when none is named."""
    if "train" in names:
        return "train"
    if len(names) == 1:
        return names[0]
    raise InvalidArgument(
        f"{source.id} has no split train; name one of {', '.join(names)}",
        reason="SPLIT_REQUIRED",
        metadata={"dataset": source.id, "splits": ",".join(names)},
    )


def _is_offline(error: BaseException | None) -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() not in ("1", "ON", "YES", "TRUE"):
        return False
    while error is not None:
        if (
            isinstance(error, ConnectionError)
            or "OfflineMode" in type(error).__name__
            or "offline" in str(error).lower()
        ):
            return True
        error = error.__cause__ or error.__context__
    return False

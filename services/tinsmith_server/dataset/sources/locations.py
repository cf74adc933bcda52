"""Where files may lie: below the data root, and nowhere else."""

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tinsmith_server.serving.errors import NotFound, PermissionDenied, Unimplemented

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):", re.IGNORECASE)
_LATER = ("s3", "gs", "az", "https", "http", "hf")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocatedFile:
    """A file that may be read."""

    name: str
    """Relative to the data root: what callers may see."""
    path: Path
    size: int
    changed_ns: int
    """When its content last changed, in nanoseconds."""


def locate(uri: str, root: Path) -> LocatedFile:
    """The file of a path or URI; links are followed before the check.

    PermissionDenied LOCATION_NOT_ALLOWED outside of the root, whether there is a file or not; NotFound
    DATASET_NOT_FOUND; Unimplemented SCHEME_NOT_SUPPORTED for the blob stores of the contract.
    """
    root = root.resolve()
    try:
        path = (root / _path(uri)).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL, a name that is too long
        raise _not_allowed(uri) from None
    if not path.is_relative_to(root):
        raise _not_allowed(uri)
    name = path.relative_to(root).as_posix()
    try:
        facts = path.stat()
    except OSError:
        raise _not_found(name) from None
    if not stat.S_ISREG(facts.st_mode):
        raise _not_found(name)
    return LocatedFile(name=name, path=path, size=facts.st_size, changed_ns=facts.st_mtime_ns)


def _path(uri: str) -> str:
    match = _SCHEME.match(uri)
    if match is None:
        return uri
    scheme = match.group(1).lower()
    if scheme == "file":
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise _not_allowed(uri)
        return unquote(parts.path)
    if scheme in _LATER:
        raise Unimplemented(
            f"{scheme}:// is not read yet; copy the file below the data root of the dataset process",
            reason="SCHEME_NOT_SUPPORTED",
            metadata={"scheme": scheme, "uri": uri},
        )
    raise _not_allowed(uri)


def _not_allowed(uri: str) -> PermissionDenied:
    return PermissionDenied(
        f"{uri!r} is not below the data root; setting data_root of the dataset process is where files may lie",
        reason="LOCATION_NOT_ALLOWED",
        metadata={"uri": uri},
    )


def _not_found(name: str) -> NotFound:
    return NotFound(
        f"no file {name!r} below the data root (setting data_root of the dataset process)",
        reason="DATASET_NOT_FOUND",
        metadata={"file": name},
    )

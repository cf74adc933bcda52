"""What the setting `base_models` means: names that requests use, and where each model's files are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinsmith_server.models.embedded import EMBEDDED_MODELS, Progress, embedded_directory
from tinsmith_server.models.hub import download
from tinsmith_server.serving.errors import NotFound

EXPORTS = "exports"
"""Folder of merged models in a home."""

_SEPARATORS = ("/", "\\")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """A base model that a room serves."""

    name: str
    """As requests name it."""
    location: str
    """The name of an embedded model, a directory, or a hub id."""


def parse_base_models(entries: Sequence[str]) -> Mapping[str, BaseModel]:
    """Base models by name, in the order of the entries; an entry is "LOCATION" or "ALIAS=LOCATION".

    An alias holds no slash, so a directory with an equals sign in it can stand alone. ValueError for a blank entry,
    alias or location, and for a name that comes twice.
    """
    models: dict[str, BaseModel] = {}
    for entry in entries:
        model = _parse(entry)
        if model.name in models:
            raise ValueError(f"base model {model.name!r} is there twice; give one of them another name: ALIAS=LOCATION")
        models[model.name] = model
    return models


def find_directory(model: BaseModel, home: Path, progress: Progress | None = None, *, weights: bool = True) -> Path:
    """The directory with the model's files, as `transformers` reads them. Blocks; may build or download.

    A model that ExportModel wrote goes by its name: it is in <home>/exports. An embedded model is built at its first
    use, in about a minute of one core, and kept in <home>/models; processes that ask meanwhile wait for that one build.
    `progress` hears of the steps of a build, never of a download. Without `weights` a hub model's configuration and
    tokenizer are enough.
    NotFound BASE_MODEL_NOT_FOUND when there is no such model; FailedPrecondition or ResourceExhausted when an embedded
    model can't be stored (see `embedded_directory`).
    """
    if model.location in EMBEDDED_MODELS:
        return embedded_directory(EMBEDDED_MODELS[model.location], home, progress)
    directory = Path(model.location).expanduser()
    if directory.is_dir():
        return directory
    export = home / EXPORTS / model.location
    if export.is_dir():
        return export
    if _is_path(model.location):
        raise NotFound(
            f"base model {model.name!r}: there is no directory {model.location}; setting base_models takes "
            f"{_embedded_names()}, a directory in the format of transformers, or a hub id",
            reason="BASE_MODEL_NOT_FOUND",
            metadata={"base_model": model.name},
        )
    return download(model.location, name=model.name, weights=weights)


def _parse(entry: str) -> BaseModel:
    alias, equals, location = entry.partition("=")
    if not equals or any(separator in alias for separator in _SEPARATORS):
        alias = location = entry
    name, location = alias.strip(), location.strip()
    if not name or not location:
        raise ValueError(f"base model {entry!r} is blank; write NAME, a directory, a hub id, or ALIAS=LOCATION")
    return BaseModel(name=name, location=location)


def _is_path(location: str) -> bool:
    """Whether this can't be a hub id, which is NAME or OWNER/NAME."""
    return location.startswith((".", "~", *_SEPARATORS)) or location.count("/") > 1


def _embedded_names() -> str:
    return " or ".join(EMBEDDED_MODELS)

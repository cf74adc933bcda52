"""Settings of a process: defaults < file < environment < flags, each with where it came from."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

DEFAULT_HOME = Path("~/.tinsmith")
_SHARED = ("home", "log_level", "base_models", "checkpoint_root", "api_keys", "service_key", "insecure")
"""Settings that mean the same in every room that has them: said once for all, at the top of the file or as
TINSMITH_<KEY>."""


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Several words; in the environment and in flags they are separated by commas."""

ExpandedPath = Annotated[Path, BeforeValidator(lambda value: Path(value).expanduser())]
"""A path that may begin with `~`."""

_SHORTEST_SECRET = 32


def _long_enough(secret: SecretStr) -> SecretStr:
    if 0 < len(secret.get_secret_value()) < _SHORTEST_SECRET:
        raise ValueError(f"a secret has at least {_SHORTEST_SECRET} characters; `openssl rand -hex 32` makes one")
    return secret


ServiceKey = Annotated[SecretStr, AfterValidator(_long_enough)]
"""A secret that is long enough not to be guessed, or empty. It is never shown."""


class RoomSettings(BaseModel):
    """Settings that every process has. `address` empty means 127.0.0.1 and the room's default port."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    address: str = Field("", description="host:port (port 0: a free one) or unix:path; several by commas")
    home: ExpandedPath = Field(DEFAULT_HOME, description="folder for everything that this process keeps")
    max_message_bytes: int = Field(64 * 1024 * 1024, gt=0, description="largest message, in and out")
    drain_s: float = Field(10.0, ge=0, description="how long calls may go on after a request to stop")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least level that is logged")
    slow_call_s: float = Field(10.0, gt=0, description="calls that take longer are logged as slow")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of Prometheus metrics; 0: none")
    reflection: bool = Field(True, description="tell clients such as `buf curl` what is served")
    api_keys: ExpandedPath | None = Field(None, description="TOML file of tenants; with it every call needs a key")
    service_key: ServiceKey = Field(SecretStr(""), description="secret by which a suite's services know each other")
    insecure: bool = Field(False, description="serve other machines although there are no API keys")
    max_calls: int = Field(0, ge=0, description="calls at work at once, streams aside, shared fairly; 0: any number")


_SECRETS = ("service_key",)
"""Settings whose values are not shown."""


class BadSettings(Exception):
    """Settings can't be used; the message names the key, where it came from, and what would do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedSettings:
    """Settings with where each value came from."""

    values: RoomSettings
    origins: Mapping[str, str]
    """Field -> "default", "file PATH", "environment NAME" or "flag --name"."""


def load_settings(
    kind: type[RoomSettings],
    room: str,
    *,
    flags: Mapping[str, str] | None = None,
    config: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> LoadedSettings:
    """The settings of a room. BadSettings when a key is unknown or a value does not fit.

    The file is TOML: keys at its top are for every room that has them, a table named like a room is for that room. It
    is `config`, else the environment's TINSMITH_CONFIG, else none. The environment names a setting
    TINSMITH_<ROOM>_<KEY>; TINSMITH_HOME, _LOG_LEVEL, _BASE_MODELS, _CHECKPOINT_ROOT, _API_KEYS, _SERVICE_KEY and
    _INSECURE are for every room.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(kind.model_fields, "default")
    path = config or (Path(environment["TINSMITH_CONFIG"]) if environment.get("TINSMITH_CONFIG") else None)
    layers = [
        *(_of_file(path, kind, room) if path else ()),
        *_of_environment(environment, kind, room),
        *((key, value, f"flag --{key.replace('_', '-')}") for key, value in (flags or {}).items()),
    ]
    for key, value, origin in layers:
        if key not in kind.model_fields:
            raise BadSettings(f"{origin}: {room} has no setting {key!r}{_near(key, kind)}")
        values[key], origins[key] = value, origin
    try:
        return LoadedSettings(values=kind.model_validate(values), origins=origins)
    except ValidationError as error:
        raise BadSettings("; ".join(_problem(item, values, origins) for item in error.errors())) from None


def _of_file(path: Path, kind: type[RoomSettings], room: str) -> list[tuple[str, Any, str]]:
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadSettings(f"can't read the settings file {path}: {error.strerror}") from None
    except ValueError as error:  # not TOML, or not even UTF-8
        raise BadSettings(f"the settings file {path} is not TOML: {error}") from None
    origin = f"file {path}"
    common = [(key, value, origin) for key, value in tables.items() if not isinstance(value, dict)]
    unknown = [key for key, _, _ in common if key not in {*RoomSettings.model_fields, *_SHARED}]
    if unknown:
        raise BadSettings(f"{origin}: no room-independent setting {unknown[0]!r}{_near(unknown[0], RoomSettings)}")
    own = [(key, value, f"{origin} [{room}]") for key, value in tables.get(room, {}).items()]
    return [item for item in common if item[0] in kind.model_fields] + own


def _of_environment(environment: Mapping[str, str], kind: type[RoomSettings], room: str) -> list[tuple[str, str, str]]:
    names = [
        (key, name)
        for key in kind.model_fields
        for name in (f"TINSMITH_{key.upper()}", f"TINSMITH_{room.upper()}_{key.upper()}")
        if key in _SHARED or name.startswith(f"TINSMITH_{room.upper()}_")
    ]
    return [(key, environment[name], f"environment {name}") for key, name in names if environment.get(name)]


def _near(key: str, kind: type[RoomSettings]) -> str:
    close = get_close_matches(key, kind.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(kind.model_fields)}"


def _problem(item: Any, values: Mapping[str, object], origins: Mapping[str, str]) -> str:
    key = str(item["loc"][0]) if item["loc"] else ""
    said = "" if key in _SECRETS else f" = {values.get(key)!r}"
    return f"{origins.get(key, '')}: {key}{said} does not do: {item['msg']}"

"""`tinsmith serve`: one room, in this process."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tinsmith_server.cli.failures import CommandFailed
from tinsmith_server.cli.supervised import end_with_supervisor


def serve(name: str, flags: Sequence[str], config: Path | None, rooms: Mapping[str, str] | None = None) -> int:
    """Serves the room until it is told to stop; returns the exit code. CommandFailed for what the user got wrong."""
    from tinsmith_server.serving import ROOMS, BadSettings, UnknownRoom, find_room, load_settings, run_room

    end_with_supervisor()
    try:
        definition = find_room(name, rooms or ROOMS)
        loaded = load_settings(definition.settings, name, flags=settings_of(flags), config=config)
    except (UnknownRoom, BadSettings) as error:
        raise CommandFailed(str(error)) from None
    return run_room(definition, loaded.values)


def settings_of(flags: Sequence[str]) -> dict[str, str]:
    """Settings from arguments like `--drain-s 5` or `--drain-s=5`. CommandFailed when they are not in pairs."""
    values: dict[str, str] = {}
    rest = list(flags)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise CommandFailed(f"what is {word!r}? settings are written --name value, for example --drain-s 5")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise CommandFailed(f"{word} needs a value: {word} VALUE")
            value = rest.pop(0)
        values[name.replace("-", "_")] = value
    return values

"""Fields of a recipe as words of a command line: `learning_rate=1e-3 dataset.hub.id=openai/gsm8k`."""

from collections.abc import Sequence

from tinsmith_server.cli.failures import CommandFailed


def overrides_of(words: Sequence[str]) -> dict[str, str]:
    """Field -> value, as text; the last of several for one field counts. CommandFailed for words of another form."""
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if word.startswith("-"):
            plain = word.lstrip("-")
            hint = plain if "=" in plain else f"{plain}=VALUE"
            raise CommandFailed(f"fields of a recipe are written without dashes: {hint}, not {word}")
        if not equals or not key:
            raise CommandFailed(f"{word!r} sets nothing: write FIELD=VALUE, for example steps=10")
        values[key] = value
    return values

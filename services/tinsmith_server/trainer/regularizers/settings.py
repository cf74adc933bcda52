"""Options and choices of a regularizer: declared as its dataclass's fields, read from a request by name."""

from collections.abc import Mapping
from dataclasses import Field, field, fields
from typing import Any, TypeVar

import numpy as np

from tinsmith_server.serving.errors import InvalidArgument

T = TypeVar("T")
LARGEST = float(np.finfo(np.float32).max)
"""What logprobs are computed with is no larger."""


def number(default: float | None, *, low: float = -LARGEST, high: float = LARGEST) -> Any:
    """An option: a number from `low` to `high`."""
    return field(default=default, metadata={"range": (low, high)})


def word(*words: str) -> Any:
    """A choice: one of the words, by default the first."""
    return field(default=words[0], metadata={"words": words})


def made(kind: type[T], name: str, options: Mapping[str, float], choices: Mapping[str, str]) -> T:
    """A regularizer with the options and choices that a request gives it, the others at their defaults.

    InvalidArgument with reason BAD_REGULARIZER for one that it does not have, or a value out of range.
    """
    known = {_on_the_wire(each): each for each in fields(kind)}  # type: ignore[arg-type]  # all are dataclasses
    values: dict[str, Any] = {}
    for what, given, there in (("option", options, "range"), ("choice", choices, "words")):
        having = {key: each for key, each in known.items() if there in each.metadata}
        for key, value in given.items():
            if key not in having:
                raise bad(name, f"has no {what} {key!r}; it has {', '.join(sorted(having)) or 'none'}", key)
            values[having[key].name] = _checked(name, key, having[key], value)
    return kind(**values)


def bad(name: str, what: str, setting: str = "") -> InvalidArgument:
    """The error of a regularizer that can't be what the request says."""
    metadata = {"regularizer": name} | ({"setting": setting} if setting else {})
    return InvalidArgument(
        f"regularizer {name!r} {what}",
        reason="BAD_REGULARIZER",
        metadata=metadata,
        violations=[("loss.regularizers", what)],
    )


def _checked(name: str, key: str, declared: "Field[Any]", value: float | str) -> float | str:
    if isinstance(value, str):
        words = declared.metadata["words"]
        if value not in words:
            raise bad(name, f"has the choice {key} {value!r}; it is one of {', '.join(words)}", key)
        return value
    low, high = declared.metadata["range"]
    if not low <= value <= high:
        raise bad(name, f"has the option {key} {value}; it must be from {low:g} to {high:g}", key)
    return value


def _on_the_wire(declared: "Field[Any]") -> str:
    """A field whose name would be Python's own has a trailing underscore."""
    return declared.name.rstrip("_")

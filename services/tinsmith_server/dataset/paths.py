"""Paths into a row: "problem", "meta.level", "turns[0].text"."""

import re
from collections.abc import Callable
from typing import Any

from tinsmith_server.serving.errors import InvalidArgument

_STEP = re.compile(r"(?:\A|\.)([^.\[\]]+)|\[(-?\d{1,9})\]")


def first_column(path: str) -> str:
    """The column that a path begins in. InvalidArgument with reason BAD_PATH."""
    return str(_steps(path)[0])


def reader(path: str) -> Callable[[Any], Any]:
    """A function from a row to the value at a path; null where the path leads nowhere. InvalidArgument, BAD_PATH."""
    steps = _steps(path)

    def read(value: Any) -> Any:
        for step in steps:
            value = _follow(value, step)
        return value

    return read


def _follow(value: Any, step: str | int) -> Any:
    if isinstance(step, str):
        return value.get(step) if isinstance(value, dict) else None
    within = isinstance(value, list) and -len(value) <= step < len(value)
    return value[step] if within else None


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    place = 0
    while match := _STEP.match(path, place):
        steps.append(match.group(1) if match.group(1) is not None else int(match.group(2)))
        place = match.end()
    if place != len(path) or not steps or isinstance(steps[0], int):
        raise InvalidArgument(
            f"path {path!r} can't be read; write a column, then .field or [number] as often as needed",
            reason="BAD_PATH",
            metadata={"path": path},
        )
    return steps

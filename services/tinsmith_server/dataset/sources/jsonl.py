"""Rows as JSON: one object a line, or one object a message."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from tinsmith_server.dataset.rows import Row
from tinsmith_server.dataset.sources.bad_rows import BadRows

_MARK = b"\xef\xbb\xbf"
_DEEPEST = 100
"""Lists and objects within each other: what works on rows recurses."""


def read_lines(text: bytes, file: str, bad_rows: BadRows) -> Iterator[Row]:
    """Rows of a file in UTF-8, with or without byte order mark, carriage returns and a last line end.

    Blank lines are left out and counted. InvalidArgument with reason BAD_ROW as `bad_rows` has it.
    """
    text = text.removeprefix(_MARK)
    lines = text.removesuffix(b"\n").split(b"\n") if text else []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            bad_rows.skipped += 1
            continue
        row = _row(line, file, number, bad_rows)
        if row is not None:
            yield row


def read_objects(rows: tuple[bytes, ...], file: str, bad_rows: BadRows) -> Iterator[Row]:
    """Rows that came one by one; their numbers, from 1, stand for lines."""
    for number, text in enumerate(rows, 1):
        row = _row(text, file, number, bad_rows)
        if row is not None:
            yield row


def _row(text: bytes, file: str, number: int, bad_rows: BadRows) -> Row | None:
    try:
        row = json.loads(text, parse_constant=_refuse)
        if b"\\u" in text:
            json.dumps(row, ensure_ascii=False).encode()  # an escaped half of a character can't travel as UTF-8
    except (ValueError, RecursionError) as error:
        bad_rows.found(file, number, _problem(error))
        return None
    if text.count(b"[") + text.count(b"{") > _DEEPEST and _is_too_deep(row):
        bad_rows.found(file, number, f"nested more than {_DEEPEST} deep")
        return None
    if not isinstance(row, dict):
        bad_rows.found(file, number, f"is {_KINDS.get(type(row), type(row).__name__)}, not a JSON object")
        return None
    return row


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


_KINDS = {list: "a list", str: "text", int: "a number", float: "a number", bool: "a truth value", type(None): "null"}

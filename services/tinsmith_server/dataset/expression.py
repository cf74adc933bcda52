"""Filters by a CEL expression over `row`. CEL has no loops but over lists, no assignment and no way out of itself.

What is bounded: the expression's length (by the contract), how many times it may go over a list, and the whole filter's
time. `https://cel.dev` has the language.
"""

import re
import time
from collections.abc import Callable

import cel

from tinsmith_server.dataset.plain import plain
from tinsmith_server.dataset.rows import Row
from tinsmith_server.serving.errors import DeadlineExceeded, InvalidArgument

_MOST_MACROS = 2
_MACRO = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(")
_DEEPEST = 64
"""Brackets and signs within each other: evaluation recurses."""


def predicate(expression: str, *, timeout_s: float) -> Callable[[Row, int], bool]:
    """A function from a row and its number to whether it is kept.

    InvalidArgument with reason BAD_EXPRESSION when the expression can't be read, or fails on a row or gives no truth
    value there; DeadlineExceeded with reason FILTER_TIMEOUT once all calls together have taken `timeout_s`.
    """
    _check(expression)
    try:
        program = cel.compile(expression)
    except ValueError as error:
        raise _bad(expression, f"can't be read: {_first_line(error)}") from error
    ends_at = time.monotonic() + timeout_s

    def keep(row: Row, number: int) -> bool:
        if time.monotonic() > ends_at:
            raise DeadlineExceeded(
                f"the filter took more than {timeout_s:g} s, up to row {number}; simplify it or take fewer rows",
                reason="FILTER_TIMEOUT",
                metadata={"row": str(number)},
            )
        try:
            value = program.execute({"row": plain(row)})
        except (ValueError, TypeError, RuntimeError, KeyError, ArithmeticError, IndexError) as error:
            hint = f"{type(error).__name__}: {_first_line(error)}"
            raise _bad(expression, f"fails on row {number}: {hint}; guard it with has() or != null", number) from error
        if not isinstance(value, bool):
            raise _bad(expression, f"is no truth value on row {number} but {type(value).__name__}", number)
        return value

    return keep


def _check(expression: str) -> None:
    if len(_MACRO.findall(expression)) > _MOST_MACROS:
        raise _bad(expression, f"goes over lists more than {_MOST_MACROS} times")
    if _depth(expression) > _DEEPEST or re.search(r"[-!]{65}", expression):
        raise _bad(expression, f"is nested more than {_DEEPEST} deep")


def _depth(expression: str) -> int:
    deepest = depth = 0
    for letter in expression:
        depth += (letter in "([{?") - (letter in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _bad(expression: str, problem: str, row: int | None = None) -> InvalidArgument:
    metadata = {"expression": expression, "problem": problem} | ({} if row is None else {"row": str(row)})
    return InvalidArgument(f"filter {problem}", reason="BAD_EXPRESSION", metadata=metadata)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__

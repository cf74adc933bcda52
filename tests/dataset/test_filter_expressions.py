"""CEL over rows: what it can say, and what it can't do."""

import asyncio
from typing import Any

import pytest

from tests.dataset.conftest import inline, read_all
from tests.support import serving
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.dataset.v1 import Filter, Operation
from tinsmith_server.dataset import ROOM

ROW = {"level": 3, "answer": "12", "tags": ["a", "b"], "meta": {"x": 1.5}, "none": None}


async def kept(suite: Suite, expression: str, row: dict[str, Any] = ROW) -> bool:
    return bool(await read_all(suite, inline([row, row], Operation(filter=Filter(expression=expression)))))


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("row.level >= 3 && row.answer != ''", True),
        ("row.level in [1, 2]", False),
        ("!(row.level in [1, 2])", True),
        ("row.answer.matches('^[0-9]+$')", True),
        ("size(row.answer) == 2", True),
        ("row.tags.exists(tag, tag == 'b')", True),
        ("row.tags.all(tag, tag == 'b')", False),
        ("row.meta.x > 1.0", True),
        ("row.none == null", True),
        ("has(row.nothing)", False),
        ("row['level'] == 3", True),
        ("row.level < 3 || row.answer.startsWith('1')", True),
        ("(row.level > 5 ? 'a' : 'b') == 'b'", True),
    ],
)
async def test_expressions_over_a_row(suite: Suite, expression: str, holds: bool) -> None:
    """D-03."""
    rows = inline([ROW], Operation(filter=Filter(expression=expression)))
    if holds:
        assert await read_all(suite, rows) == [ROW]
    else:
        with pytest.raises(TinsmithError) as error:
            await read_all(suite, rows)
        assert error.value.reason == "END_OF_DATA"


@pytest.mark.parametrize(
    "expression",
    [
        "row.level >=",
        "row.level",
        "'text'",
        "row.nothing == 1",
        "row.none > 3",
        "unknown > 1",
        "1 / 0 == 1",
        "row.level + 9223372036854775807 > 0",
        "row.answer.matches('(')",
        "row.answer.matches('(x{1000}){1000}{1000}')",
        "__import__('os').system('true') == 0",
        "row.__class__ == 1",
        "open('/etc/passwd') != ''",
        "[1].all(a, [1].all(b, [1].all(c, true)))",
        "(" * 100 + "true" + ")" * 100,
        "!" * 4000 + "true",
    ],
)
async def test_what_can_not_be_judged_is_refused(suite: Suite, expression: str) -> None:
    """D-03: nothing of an expression is ever run as code."""
    with pytest.raises(TinsmithError) as error:
        await kept(suite, expression)
    assert (error.value.code.name, error.value.reason) == ("INVALID_ARGUMENT", "BAD_EXPRESSION")


async def test_a_failing_row_is_named(suite: Suite) -> None:
    rows = inline([ROW, {"level": "high"}], Operation(filter=Filter(expression="row.level > 1")))
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, rows)
    assert error.value.metadata["row"] == "1"


@pytest.mark.parametrize(
    "expression", ["1" + "+1" * 2000 + " > 0", "true" + "&&true" * 600, "a" * 4096, "x." * 2040 + "y", "[" * 4096]
)
async def test_long_expressions_do_no_harm(suite: Suite, expression: str) -> None:
    try:
        assert await kept(suite, expression)
    except TinsmithError as error:
        assert error.reason == "BAD_EXPRESSION"  # noqa: PT017  # either is an answer
    assert await kept(suite, "true")


async def test_too_long_expressions_are_refused(suite: Suite) -> None:
    with pytest.raises(TinsmithError) as error:
        await kept(suite, "true ||" * 1000 + "true")
    assert error.value.reason == "INVALID_REQUEST"


async def test_a_slow_filter_is_stopped(tmp_path: Any, base_models: tuple[str, ...]) -> None:
    settings = {"base_models": base_models, "filter_timeout_s": 0.2}
    slow = "row.l.all(x, row.l.all(y, x + y >= 0))"
    rows = inline([{"l": list(range(300))}] * 1000, Operation(filter=Filter(expression=slow)))
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(dataset=address) as suite:
        with pytest.raises(TinsmithError) as error:
            await asyncio.wait_for(read_all(suite, rows), 30)
    assert (error.value.code.name, error.value.reason) == ("DEADLINE_EXCEEDED", "FILTER_TIMEOUT")

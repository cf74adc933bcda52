"""The calls: order, errors, streams, the list."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from google.protobuf.json_format import MessageToDict

from tinsmith import TinsmithError
from tinsmith.grader.v1 import grader_service_pb2 as pb


async def test_results_keep_the_order_of_the_items_and_carry_their_ids(lab, kit) -> None:  # type: ignore[no-untyped-def]
    """G-06"""
    pairs = [(str(k), str(k)) if k % 3 else (rf"\sqrt{{{k}}}\sqrt{{{k}}}", str(k)) for k in range(2, 62)]
    results = await lab.grade(pairs)
    assert [result.id for result in results] == [str(number) for number in range(60)]
    assert [result.extracted for result in results] == [answer for answer, _ in pairs]
    assert all(result.correct for result in results)
    assert all(result.milliseconds > 0 for result in results)


async def test_no_items_give_no_results(lab) -> None:  # type: ignore[no-untyped-def]
    assert await lab.grade([]) == []


async def test_any_of_several_references_counts(lab, kit) -> None:  # type: ignore[no-untyped-def]
    """G-06"""
    items = [
        pb.GradeItem(answer="7", reference="5", alternatives=["6", "7"]),
        pb.GradeItem(answer="1+x", reference="5", alternatives=["east", "x+1"]),
        pb.GradeItem(answer="8", reference="5", alternatives=["6", "7"]),
    ]
    answer = await lab.suite.grader.Grade(pb.GradeRequest(grader=kit.whole(), items=items))
    assert [result.correct for result in answer.results] == [True, True, False]


async def test_an_item_may_name_another_grader(lab, kit) -> None:  # type: ignore[no-untyped-def]
    request = pb.GradeRequest(
        other_graders=[kit.whole(), pb.GraderSpec(exact=pb.ExactGrader())],
        items=[pb.GradeItem(answer="1.0", reference="1", other_grader=number) for number in (1, 2)],
    )
    answer = await lab.suite.grader.Grade(request)
    assert [result.correct for result in answer.results] == [True, False]


def _nested(levels: int) -> pb.GraderSpec:
    spec = pb.GraderSpec(exact=pb.ExactGrader())
    for _ in range(levels):
        spec = pb.GraderSpec(composite=pb.CompositeGrader(parts=[pb.CompositePart(name="x", weight=1, grader=spec)]))
    return spec


def _twins() -> pb.GraderSpec:
    exact = pb.GraderSpec(exact=pb.ExactGrader())
    parts = [pb.CompositePart(name="x", weight=1, grader=exact)] * 2
    return pb.GraderSpec(composite=pb.CompositeGrader(parts=parts))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (pb.GraderSpec(math=pb.MathGrader(mode=99)), "grader.math.mode"),  # type: ignore[arg-type]
        (pb.GraderSpec(math=pb.MathGrader(extraction=99)), "grader.math.extraction"),  # type: ignore[arg-type]
        (pb.GraderSpec(math=pb.MathGrader(relative_tolerance=float("inf"))), "grader.math.relative_tolerance"),
        (
            pb.GraderSpec(math=pb.MathGrader(mode=pb.MATH_MODE_MATH_VERIFY, relative_tolerance=0.1)),
            "grader.math.relative_tolerance",
        ),
        (pb.GraderSpec(choice=pb.ChoiceGrader(letters="A-Z")), "grader.choice.letters"),
        (pb.GraderSpec(choice=pb.ChoiceGrader(letters="AA")), "grader.choice.letters"),
        (_nested(6), "grader.composite" + ".parts[0].grader.composite" * 4),
        (_twins(), "grader.composite.parts"),
    ],
)
async def test_a_specification_without_sense_is_refused(lab, spec: pb.GraderSpec, field: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TinsmithError) as caught:
        await lab.grade([("1", "1")], spec)
    assert (caught.value.code.name, caught.value.reason) == ("INVALID_ARGUMENT", "BAD_GRADER")
    assert caught.value.violations[0].field == field


async def test_an_item_without_a_grader_is_refused(lab) -> None:  # type: ignore[no-untyped-def]
    for number in (0, 1, -1):
        request = pb.GradeRequest(items=[pb.GradeItem(answer="1", reference="1", other_grader=number)])
        with pytest.raises(TinsmithError) as caught:
            await lab.suite.grader.Grade(request)
        assert caught.value.reason == "BAD_GRADER"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (pb.GraderSpec(regex=pb.RegexGrader(pattern="x")), "regex"),
        (pb.GraderSpec(judge=pb.JudgeGrader(model="m")), "judge"),
        (pb.GraderSpec(code=pb.CodeGrader()), "code"),
    ],
)
async def test_a_grader_that_is_not_there_yet_says_so(lab, spec: pb.GraderSpec, name: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TinsmithError) as caught:
        await lab.grade([("1", "1")], spec)
    assert (caught.value.code.name, caught.value.reason) == ("UNIMPLEMENTED", "GRADER_NOT_IMPLEMENTED")
    assert caught.value.metadata["grader"] == name


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e6])
async def test_a_time_limit_out_of_range_is_refused(lab, seconds: float) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TinsmithError) as caught:
        await lab.grade([("1", "1")], item_timeout_s=seconds)
    assert caught.value.reason == "BAD_ITEM_TIMEOUT"


async def test_a_stream_grades_all_items_and_keeps_what_was_said_before(lab, kit) -> None:  # type: ignore[no-untyped-def]
    """G-06"""

    async def requests() -> AsyncIterator[pb.GradeStreamRequest]:
        yield pb.GradeStreamRequest(grader=kit.whole(), item_timeout=kit.duration(5))
        for start in range(0, 3000, 100):
            items = [
                pb.GradeItem(
                    id=str(k),
                    answer=f"{k}+x" if k % 50 == 0 else f"{k}.0",
                    reference=f"x+{k}" if k % 50 == 0 else str(k),
                )
                for k in range(start, start + 100)
            ]
            yield pb.GradeStreamRequest(items=items)
        yield pb.GradeStreamRequest(
            grader=pb.GraderSpec(exact=pb.ExactGrader()), items=[pb.GradeItem(id="last", answer="1.0", reference="1")]
        )

    found: dict[str, bool] = {}
    async for answer in lab.suite.grader.GradeStream(requests()):
        for result in answer.results:
            assert result.id not in found
            found[result.id] = result.correct
    assert not found.pop("last")
    assert len(found) == 3000
    assert all(found.values())


async def test_a_stream_is_read_no_further_than_its_window(lab, kit) -> None:  # type: ignore[no-untyped-def]
    """Backpressure: the client is kept from sending while as many slow items as fit the window are at work."""
    sent = 0

    spec = pb.GraderSpec(math=pb.MathGrader(mode=pb.MATH_MODE_MATH_VERIFY))
    await lab.grade([(r"\boxed{\sqrt{2}}", "3")], spec, item_timeout_s=30)

    async def requests() -> AsyncIterator[pb.GradeStreamRequest]:
        nonlocal sent
        for number in range(200):
            answers = ("so " * 1000 + rf"\boxed{{(10!)!+{number}{k}}}" for k in range(128))
            items = [pb.GradeItem(answer=answer, reference="3") for answer in answers]
            yield pb.GradeStreamRequest(grader=spec, items=items, item_timeout=kit.duration(0.2))
            sent += 1

    answers = lab.suite.grader.GradeStream(requests())
    first = await anext(answers)
    assert {result.reason for result in first.results} == {"DEADLINE"}
    await asyncio.sleep(0.5)
    assert sent < 100
    await answers.aclose()
    assert await lab.reasons([("z+1", "1+z")]) == ["EQUAL"]


async def test_a_stream_ends_with_the_error_of_a_bad_message(lab, kit) -> None:  # type: ignore[no-untyped-def]
    async def requests() -> AsyncIterator[pb.GradeStreamRequest]:
        yield pb.GradeStreamRequest(grader=kit.whole(), items=[pb.GradeItem(id="1", answer="1", reference="1")])
        yield pb.GradeStreamRequest(grader=pb.GraderSpec(choice=pb.ChoiceGrader(letters="AA")))

    with pytest.raises(TinsmithError) as caught:
        async for _ in lab.suite.grader.GradeStream(requests()):
            pass
    assert caught.value.reason == "BAD_GRADER"


async def test_the_list_names_every_grader_of_the_contract_page_by_page(lab) -> None:  # type: ignore[no-untyped-def]
    names, token = [], ""
    while True:
        page = await lab.suite.grader.ListGraders(pb.ListGradersRequest(page_size=4, page_token=token))
        assert len(page.graders) <= 4
        names.extend(info.name for info in page.graders)
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(field.name for field in pb.GraderSpec.DESCRIPTOR.fields)
    with pytest.raises(TinsmithError) as caught:
        await lab.suite.grader.ListGraders(pb.ListGradersRequest(page_token="?"))
    assert caught.value.reason == "BAD_PAGE_TOKEN"


async def test_the_list_says_what_can_be_used_and_how(lab, kit) -> None:  # type: ignore[no-untyped-def]
    graders = {info.name: info for info in (await lab.suite.grader.ListGraders(pb.ListGradersRequest())).graders}
    usable = {name for name, info in graders.items() if info.available}
    assert usable == {"math", "exact", "contains", "choice", "numeric", "composite"}
    assert all(info.unavailable_reason for name, info in graders.items() if name not in usable)
    schema = json.loads(graders["math"].options_schema_json)["$defs"]["MathGrader"]["properties"]
    options = MessageToDict(pb.MathGrader(mode=pb.MATH_MODE_LENIENT, strict_units=True, relative_tolerance=0.5))
    assert set(options) <= set(schema)
    assert options["mode"] in schema["mode"]["enum"]

"""Graders that only look at characters."""

import pytest

from tinsmith.grader.v1 import grader_service_pb2 as pb


async def correct(lab, spec: pb.GraderSpec, answer: str, reference: str) -> bool:  # type: ignore[no-untyped-def]
    (result,) = await lab.grade([(answer, reference)], spec)
    assert result.outcome == pb.GRADE_OUTCOME_GRADED
    assert result.score == float(result.correct)
    return bool(result.correct)


@pytest.mark.parametrize(
    ("options", "answer", "reference", "expected"),
    [
        ({}, " Paris\n", "Paris", True),
        ({}, "paris", "Paris", False),
        ({"ignore_case": True}, "PARIS", "Paris", True),
        ({"normalize": True}, "the  Paris, a city!", "Paris city", True),
        ({"normalize": True}, "paris", "Paris", False),
        ({}, "", "", True),
    ],
)
async def test_exact(lab, options: dict[str, bool], answer: str, reference: str, expected: bool) -> None:  # type: ignore[no-untyped-def]
    """G-13"""
    assert await correct(lab, pb.GraderSpec(exact=pb.ExactGrader(**options)), answer, reference) is expected


@pytest.mark.parametrize(
    ("options", "answer", "reference", "expected"),
    [
        ({}, "It is Paris.", "Paris", True),
        ({}, "It is paris.", "Paris", False),
        ({"ignore_case": True}, "It is paris.", "Paris", True),
        ({}, "anything", "", False),
    ],
)
async def test_contains(lab, options: dict[str, bool], answer: str, reference: str, expected: bool) -> None:  # type: ignore[no-untyped-def]
    """G-13"""
    assert await correct(lab, pb.GraderSpec(contains=pb.ContainsGrader(**options)), answer, reference) is expected


@pytest.mark.parametrize(
    ("letters", "answer", "found"),
    [
        ("", r"\boxed{B}", "B"),
        ("", r"A, no: \boxed{\text{C}}", "C"),
        ("", "The answer is (D).", "D"),
        ("", "**Answer: C**", "C"),
        ("", "Answer is b", "B"),
        ("", "A or B? I take B.", "B"),
        ("", "B) because", "B"),
        ("", "E", ""),
        ("ABCDE", "E", "E"),
        ("", "BAD", ""),
        ("", "a cat", ""),
        ("", "", ""),
    ],
)
async def test_choice(lab, letters: str, answer: str, found: str) -> None:  # type: ignore[no-untyped-def]
    """G-13"""
    spec = pb.GraderSpec(choice=pb.ChoiceGrader(letters=letters))
    (result,) = await lab.grade([(answer, found or "A")], spec)
    assert result.extracted == found
    assert result.reason == ("EQUAL" if found else "NO_ANSWER")
    (other,) = await lab.grade([(answer, "(A)" if found != "A" else "(B)")], spec)
    assert not other.correct


@pytest.mark.parametrize(
    ("options", "answer", "reference", "reason"),
    [
        ({}, "so 3.0", "3", "EQUAL"),
        ({}, "3.01", "3", "DIFFERENT"),
        ({"absolute_tolerance": 0.02}, "3.01", "3", "EQUAL"),
        ({"relative_tolerance": 0.01}, "101", "100", "EQUAL"),
        ({"relative_tolerance": 0.005}, "101", "100", "DIFFERENT"),
        ({"extraction": pb.EXTRACTION_LAST_BOXED}, r"1 \boxed{1/2} 3", "0.5", "EQUAL"),
        ({}, "nothing", "3", "NO_ANSWER"),
        ({}, "3", "three", "NOT_PARSED"),
        ({}, "9" * 5000, "3", "NO_ANSWER"),
    ],
)
async def test_numeric(lab, options: dict[str, float], answer: str, reference: str, reason: str) -> None:  # type: ignore[no-untyped-def]
    """G-13"""
    assert await lab.reasons([(answer, reference)], pb.GraderSpec(numeric=pb.NumericGrader(**options))) == [reason]


def part(name: str, weight: float, **grader: object) -> pb.CompositePart:
    return pb.CompositePart(name=name, weight=weight, grader=pb.GraderSpec(**grader))


async def test_a_composite_is_the_weighted_sum_of_its_parts(lab, kit) -> None:  # type: ignore[no-untyped-def]
    """G-13"""
    spec = pb.GraderSpec(
        composite=pb.CompositeGrader(
            parts=[
                part("value", 1.0, math=kit.whole().math),
                part("form", 0.25, exact=pb.ExactGrader()),
                part("penalty", -0.5, contains=pb.ContainsGrader()),
            ]
        )
    )
    symbolic, same, wrong = await lab.grade([("1+x", "x+1"), ("x+1", "x+1"), ("y", "x+1")], spec)
    assert dict(symbolic.components) == {"value": 1.0, "form": 0.0, "penalty": 0.0}
    assert (symbolic.score, symbolic.correct, symbolic.reason) == (1.0, False, "DIFFERENT")
    assert (same.score, same.correct, same.reason) == (0.75, True, "EQUAL")
    assert (wrong.score, wrong.correct) == (0.0, False)


async def test_a_composite_fails_with_the_part_that_failed(lab, kit) -> None:  # type: ignore[no-untyped-def]
    """G-06"""
    parts = [part("math", 1.0, math=kit.whole().math), part("same", 1.0, exact=pb.ExactGrader())]
    (result,) = await lab.grade([("(10!)!", "x+1")], pb.GraderSpec(composite=pb.CompositeGrader(parts=parts)))
    assert (result.outcome, result.reason, result.score) == (pb.GRADE_OUTCOME_FAILED, "TOO_COMPLEX", 0.0)

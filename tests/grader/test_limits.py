"""The size of numbers is known before they are computed."""

import sys
from collections.abc import Iterator

import pytest

from tinsmith_server.grader.expression import TooComplex
from tinsmith_server.grader.limits import MOST_BITS, check_size
from tinsmith_server.grader.normalize import normalize
from tinsmith_server.grader.nursery import RECURSION_LIMIT
from tinsmith_server.grader.parser import parse
from tinsmith_server.grader.symbolic import symbolic


@pytest.mark.parametrize(
    "text",
    [
        *("9^{9^{9}}", "9^9^9", "(10!)!", "99999999!", "10^{10^{10}}", "2^{10^6}", "((2^{100})^{100})^{100}"),
        *(
            "2^{100!}",
            "2^{2^{\\binom{50}{25}}}",
            "\\binom{10^6}{5}",
            "(1/2)^{-100000}",
            "2^{1000000.0}",
            "2^{\\sqrt{10^{20}}}",
        ),
        *(
            "e^{e^{e^{10}}}",
            "\\exp(10^{10})",
            "(3^{9999})^{9}",
            "\\{1,2^{10^9}\\}",
            "x<2^{10^9}",
            "\\frac{1}{2^{10^9}}",
            "2^{\\frac{1}{9^{9^9}}}",
            "2^{10^{40}+10^{12}-10^{40}}",
            "2^{\\sin(9^{9^9})}",
            "2^{0*9^{9^9}}",
        ),
    ],
)
def test_large_numbers_are_refused_before_they_are_computed(text: str) -> None:
    """G-12"""
    with pytest.raises(TooComplex):
        check_size(parse(normalize(text).text))


@pytest.mark.parametrize(
    "text",
    [
        "2^{1000}",
        "100!",
        "\\binom{100}{50}",
        "e^{e^{\\sqrt{37}/9}/9}",
        "(x+y)^{50}",
        "3^{1/3}",
        "2^{-10}",
        "n!",
        "\\binom{n}{2}",
        "x^{x^x}",
        "e^{\\frac{1}{9(1+\\pi^2)}}",
        "7^{\\frac{22}{7}}",
    ],
)
def test_numbers_of_ordinary_answers_pass_and_are_as_small_as_the_bound_says(text: str) -> None:
    value = symbolic(parse(normalize(text).text))
    assert all(max(abs(n.p), n.q).bit_length() <= MOST_BITS for n in value.atoms() if n.is_Rational)


@pytest.fixture
def _recursion_limit_of_workers() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(RECURSION_LIMIT)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("(" * 101 + "1" + ")" * 101, "nested"),
        ("2^" * 101 + "2", "nested"),
        (r"\sqrt{" * 101 + "1" + "}" * 101, "nested"),
        ("+".join("x" * 2002), "operations"),
        ("x" + "!" * 2002, "operations"),
        ("x+" * 2048 + "x", "characters"),
        ("1e999", "exponent"),
    ],
)
@pytest.mark.usefixtures("_recursion_limit_of_workers")
def test_nesting_operations_and_length_are_bounded(text: str, problem: str) -> None:
    """G-12"""
    with pytest.raises(TooComplex, match=problem):
        parse(text)


@pytest.mark.usefixtures("_recursion_limit_of_workers")
def test_what_is_within_the_bounds_is_parsed_and_built() -> None:
    """G-12"""
    for text in (
        "(" * 90 + "1" + ")" * 90,
        "+".join("x" * 1900),
        "x" * 3 + "*x" * 1900,
        r"\sqrt{" * 90 + "2" + "}" * 90,
    ):
        symbolic(parse(text))

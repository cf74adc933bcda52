"""Normal spelling."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith_server.grader.normalize import normalize

_PIECES = st.sampled_from(
    [
        *(
            "\\frac",
            "\\dfrac",
            "\\sqrt",
            "\\text{",
            "\\text{ cm}",
            "\\mathrm{m}",
            "\\left(",
            "\\right)",
            "\\boxed{",
            "\\%",
            "\\$",
        ),
        *("\\cdot", "\\times", "\\circ", "^\\circ", "\\,", "\\ ", "\\!", "\\\\", "\\pi", "\\le", "\\leq", "\\binom"),
        *("{", "}", "(", ")", "[", "]", ",", ".", "+", "-", "*", "**", "/", "^", "_", "=", "%", "$", " ", "  ", "\n"),
        *("0", "1", "12", "123", "1,000", "1 000", ".5", "x", "ab", "Hello", "and", " or ", "million", "percent", "cm"),
        *("m", "°", "π", "²", "½", "４", "−", "√", "\u2009"),
    ]
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\frac{1}2", r"\frac{1}{2}"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"\left( 1,\, 2 \right)", "(1,2)"),
        ("1,000", "1000"),
        ("1{,}000", "1000"),
        (r"12\,345", "12345"),
        ("(1,234)", "(1,234)"),
        ("1,200,5", "1200,5"),
        ("$18$", "18"),
        (r"\$18.", "18"),
        (r"10\%", "10"),
        ("10 percent", "10"),
        (r"30^\circ", "30"),
        (".5", "0.5"),
        ("3 million", "3*10^{6}"),
        ("1 or 2", "1,2"),
        ("1, and 2", "1,2"),
        ("7 1/2", "7 1/2"),
        ("East", "east"),
        ("X", "X"),
        (r"\text{east}", "east"),
        (r"\boxed{5}", "5"),
        (r"2 \times 3", "2*3"),
        ("２１", "21"),
        ("x²", "x^2"),
        ("−4", "-4"),
    ],
)
def test_normal_spelling(text: str, normal: str) -> None:
    """G-02"""
    assert normalize(text).text == normal


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (r"5 \text{ cm}", "5", "cm"),
        ("5cm", "5", "cm"),
        (r"5\text{ m}^2", "5", "m^2"),
        ("5 m", "5", "m"),
        ("5m", "5m", ""),
        ("x", "x", ""),
    ],
)
def test_a_unit_is_taken_off(text: str, value: str, unit: str) -> None:
    """G-02; a letter that touches a number is a variable."""
    found = normalize(text)
    assert (found.text, found.unit) == (value, unit)


def test_a_percent_sign_stays_where_it_counts() -> None:
    """G-04"""
    assert normalize(r"10\%", keep_percent=True).text == "10%"


@settings(max_examples=500, deadline=None)
@given(text=st.lists(_PIECES, max_size=12).map("".join), keep_percent=st.booleans())
def test_normalizing_twice_is_normalizing_once(text: str, keep_percent: bool) -> None:
    """G-02"""
    once = normalize(text, keep_percent=keep_percent).text
    assert normalize(once, keep_percent=keep_percent).text == once


@pytest.mark.parametrize(
    "piece", [" ", "and ", "1,", "\\text{", "{", "\\frac", "1 ", "\\ ", " and", "million", "\\boxed{", "^", "a"]
)
@pytest.mark.timeout(20)
def test_the_longest_text_takes_no_quadratic_time(piece: str) -> None:
    """G-12"""
    normalize(piece * (4096 // len(piece)))

"""What is taken from a model's text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith_server.grader.extraction import braces_balance, extract
from tinsmith_server.grader.math_grader import MathGrader
from tinsmith_server.grader.spec import Extraction, MathSpec


@pytest.mark.parametrize(
    ("text", "last", "first"),
    [
        (r"\boxed{7}", "7", "7"),
        (r"\boxed{1}, \boxed{2}", "2", "1"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", r"\boxed{5}", r"\boxed{5}"),
        (r"a \boxed 5", "5", "5"),
        (r"$\boxed 7$ apples", "7", "7"),
        (r"\boxed{}", "", ""),
        (r"\boxed{1}{2}", "1", "1"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}", r"\{1,2\}"),
        (r"\boxed{ x }", "x", "x"),
        (r"\boxed {8}", None, None),
        (r"\fbox{3}", None, None),
        (r"\boxed{3", None, None),
        (r"\boxed{3} then \boxed{4", "3", "3"),
        ("no box", None, None),
        ("", None, None),
    ],
)
def test_the_boxed_answer_is_found_by_its_braces(text: str, last: str | None, first: str | None) -> None:
    """G-01"""
    assert extract(text, Extraction.LAST_BOXED) == last
    assert extract(text, Extraction.FIRST_BOXED) == first


@pytest.mark.parametrize(
    ("text", "balanced"),
    [
        (r"\boxed{7}", True),
        (r"\boxed{7}}", False),
        (r"} \boxed{7}", False),
        (r"{ \boxed{7}", False),
        (r"\} \boxed{7}", True),
        (r"\\{\boxed{7}}", True),
        (r"\\} \boxed{7}", False),
    ],
)
def test_strict_braces_refuse_a_stray_brace_anywhere_and_the_default_does_not(text: str, balanced: bool) -> None:
    """G-01"""
    assert braces_balance(text) is balanced
    strict = MathGrader(MathSpec(strict_braces=True), max_answer_chars=1000).grade(text, ("7",))
    lenient = MathGrader(MathSpec(), max_answer_chars=1000).grade(text, ("7",))
    assert strict.correct is balanced  # type: ignore[union-attr]
    assert lenient.correct  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "integer", "number"),
    [
        ("9 + 9 = 18", "18", "18"),
        ("The answer is 18.", "18", "18"),
        ("-7", "-7", "-7"),
        ("x=-7", "-7", "-7"),
        ("\u22124", "-4", "-4"),
        ("3-5", "5", "5"),
        ("5--3", "-3", "-3"),
        ("1,234,567 people", "1234567", "1234567"),
        ("12,34", "34", "34"),
        ("1, 2", "2", "2"),
        ("$1,234.50", None, "1234.50"),
        ("18.0", None, "18.0"),
        ("4 or 3.5", "4", "3.5"),
        ("about .5", None, "0.5"),
        ("007", "007", "007"),
        ("\u0663", None, None),
        ("none", None, None),
        ("", None, None),
    ],
)
def test_the_last_integer_and_the_last_number(text: str, integer: str | None, number: str | None) -> None:
    """A decimal is not an integer; Arabic-Indic digits are not looked for."""
    assert extract(text, Extraction.LAST_INTEGER) == integer
    assert extract(text, Extraction.LAST_NUMBER) == number


@given(
    number=st.integers(),
    before=st.text(alphabet="abc .=:\n", max_size=20),
    after=st.text(alphabet="abc !\n", max_size=20),
)
def test_any_integer_is_found_again(number: int, before: str, after: str) -> None:
    for form in (str(number), f"{number:,}"):
        text = f"12 {before} {form} {after}"
        assert extract(text, Extraction.LAST_INTEGER) == str(number)
        assert extract(rf"{before}\boxed{{{form}}}{after}", Extraction.LAST_BOXED) == form


@given(st.text(alphabet="\\boxed{}1 $\n", max_size=60))
def test_a_boxed_answer_has_balanced_braces_and_is_in_the_text(text: str) -> None:
    found = extract(text, Extraction.LAST_BOXED)
    if found is not None and f"\\boxed{{{found}}}" in text:
        assert braces_balance(found)
    assert found is None or found in text


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 40_000, "\\boxed " * 40_000, "1," + "111," * 60_000, "-" * 250_000, "1.5 " * 60_000]
)
@pytest.mark.timeout(20)
def test_long_texts_take_no_quadratic_time(text: str) -> None:
    """G-12: quadratic time would be hours here."""
    for extraction in Extraction:
        extract(text, extraction)

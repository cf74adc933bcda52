"""The lenient cascade, against labels and against sympy."""

import random

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith.grader.v1 import grader_service_pb2 as pb
from tinsmith_server.grader.comparison import Comparison
from tinsmith_server.grader.expression import NotParsed, TooComplex
from tinsmith_server.grader.normalize import normalize

EXACT, NORMALIZED = pb.GRADE_STAGE_EXACT, pb.GRADE_STAGE_NORMALIZED
NUMERIC, SYMBOLIC, EXTRACTION = pb.GRADE_STAGE_NUMERIC, pb.GRADE_STAGE_SYMBOLIC, pb.GRADE_STAGE_EXTRACTION

GOLDEN = [
    ("42", "42", "EQUAL", EXACT),
    (" 42 ", "42", "EQUAL", EXACT),
    ("42.0", "42", "EQUAL", NUMERIC),
    ("007", "7", "EQUAL", NUMERIC),
    ("1/2", "0.5", "EQUAL", NUMERIC),
    ("2/4", "1/2", "EQUAL", NUMERIC),
    (r"3\frac12", "7/2", "EQUAL", NUMERIC),
    ("7 1/2", "7.5", "EQUAL", NUMERIC),
    ("1e3", "1000", "EQUAL", NUMERIC),
    ("0.333", "1/3", "DIFFERENT", NUMERIC),
    ("43", "42", "DIFFERENT", NUMERIC),
    ("1,000", "1000", "EQUAL", NORMALIZED),
    (r"10\%", "10", "EQUAL", NORMALIZED),
    (r"30^\circ", "30", "EQUAL", NORMALIZED),
    (r"5 \text{ cm}", "5", "EQUAL", NORMALIZED),
    ("East", "east", "EQUAL", NORMALIZED),
    ("(1,2)", "(1, 2)", "EQUAL", NORMALIZED),
    ("1 or 2", "1,2", "EQUAL", NORMALIZED),
    ("", "42", "NO_ANSWER", EXTRACTION),
    ("", "", "NO_ANSWER", EXTRACTION),
    (r"2^{10}", "1024", "EQUAL", SYMBOLIC),
    ("10^6", "1000000", "EQUAL", SYMBOLIC),
    ("1 million", "1000000", "EQUAL", SYMBOLIC),
    (r"\sqrt 4", "2", "EQUAL", SYMBOLIC),
    ("x=5", "5", "EQUAL", SYMBOLIC),
    ("5", "x=5", "EQUAL", SYMBOLIC),
    ("x=5", "y=5", "DIFFERENT", SYMBOLIC),
    ("x+1", "1+x", "EQUAL", SYMBOLIC),
    (r"2\sqrt2", r"\sqrt8", "EQUAL", SYMBOLIC),
    ("x^2+2x+1", "(x+1)^2", "EQUAL", SYMBOLIC),
    (r"\frac{x^2-1}{x-1}", "x+1", "EQUAL", SYMBOLIC),
    (r"\sin^2 x+\cos^2 x", "1", "EQUAL", SYMBOLIC),
    (r"\ln x+\ln y", r"\ln(xy)", "EQUAL", SYMBOLIC),
    ("|x|", "x", "DIFFERENT", SYMBOLIC),
    (r"\frac{1+\sqrt5}{2}", "1.6180339887", "DIFFERENT", SYMBOLIC),
    ("2^{1000}+1", "2^{1000}", "DIFFERENT", SYMBOLIC),
    (r"\sqrt{2}+2^{1000}+1", r"\sqrt{2}+2^{1000}", "DIFFERENT", SYMBOLIC),
    ("(1,2)", "[1,2]", "DIFFERENT", SYMBOLIC),
    ("[0,1)", "(0,1)", "DIFFERENT", SYMBOLIC),
    ("(1,2)", "(2,1)", "DIFFERENT", SYMBOLIC),
    (r"\{1,2\}", r"\{2,1\}", "EQUAL", SYMBOLIC),
    ("2,1", "1,2", "EQUAL", SYMBOLIC),
    (r"1\pm\sqrt{2}", r"1-\sqrt{2},1+\sqrt{2}", "EQUAL", SYMBOLIC),
    ("x<2", r"(-\infty,2)", "EQUAL", SYMBOLIC),
    (r"1\le x<2", "[1,2)", "EQUAL", SYMBOLIC),
    (r"x\in[1,2]", r"1\leq x\leq 2", "EQUAL", SYMBOLIC),
    (r"x\in[1,2]", r"1\leq y\leq 2", "DIFFERENT", SYMBOLIC),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)", "EQUAL", SYMBOLIC),
    ("y=2x+1", "2x-y+1=0", "EQUAL", SYMBOLIC),
    ("-2x<4", "x<2", "DIFFERENT", SYMBOLIC),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix} 1 & \frac42 \\ 3 & 4 \end{bmatrix}", "EQUAL", SYMBOLIC),
    (r"\binom{5}{2}", "10", "EQUAL", SYMBOLIC),
    (r"\log_2 8", "3", "EQUAL", SYMBOLIC),
    ("cat", "act", "NOT_PARSED", SYMBOLIC),
    ("1/0", "2", "NOT_PARSED", SYMBOLIC),
]


async def test_each_stage_decides_what_it_can(lab) -> None:  # type: ignore[no-untyped-def]
    """G-05"""
    results = await lab.grade([(answer, reference) for answer, reference, _, _ in GOLDEN])
    found = [(g[0], g[1], r.reason, r.stage) for g, r in zip(GOLDEN, results, strict=True)]
    assert found == GOLDEN
    assert {result.stage for result in results} == {EXACT, NORMALIZED, NUMERIC, SYMBOLIC, EXTRACTION}
    assert all(r.correct == (r.reason == "EQUAL") == (r.score == 1.0) for r in results)


@pytest.mark.parametrize(
    ("options", "answer", "reference", "reason"),
    [
        ({"strict_units": True}, "5 cm", "5 cm", "EQUAL"),
        ({"strict_units": True}, "5cm", r"5\text{ cm}", "EQUAL"),
        ({"strict_units": True}, "5 cm", "5 km", "DIFFERENT"),
        ({"strict_units": True}, "5", "5 km", "DIFFERENT"),
        ({}, "5 cm", "5 km", "EQUAL"),
        ({"strict_percent": True}, r"10\%", "10", "DIFFERENT"),
        ({"strict_percent": True}, r"10\%", "0.1", "EQUAL"),
        ({"strict_percent": True}, r"x\%", r"\frac{x}{100}", "EQUAL"),
        ({"relative_tolerance": 1e-3}, "0.333", "1/3", "EQUAL"),
        ({"relative_tolerance": 1e-4}, "0.333", "1/3", "DIFFERENT"),
        ({"relative_tolerance": 1e-3}, "1000", "1001", "DIFFERENT"),
        ({"relative_tolerance": 1e-3}, "1.414", r"\sqrt2", "EQUAL"),
        ({"relative_tolerance": 1e-6}, "1.414", r"\sqrt2", "DIFFERENT"),
        ({"allow_empty": True}, "", "", "EQUAL"),
        ({"allow_empty": True}, "", "5", "NO_ANSWER"),
    ],
)
async def test_options(lab, kit, options: dict[str, object], answer: str, reference: str, reason: str) -> None:  # type: ignore[no-untyped-def]
    """G-04: units, percent signs, tolerance of numbers that are not exact; empty answers."""
    assert await lab.reasons([(answer, reference)], kit.whole(**options)) == [reason]


X, Y = sympy.symbols("x y", real=True)
_LEAVES = st.one_of(
    st.integers(-9, 9).map(sympy.Integer),
    st.sampled_from([X, Y, sympy.pi, sympy.Rational(1, 2), sympy.Rational(-7, 3), sympy.sqrt(2)]),
)


def _grow(inner: st.SearchStrategy[sympy.Expr]) -> st.SearchStrategy[sympy.Expr]:
    pair = st.tuples(inner, inner)
    return st.one_of(
        pair.map(lambda p: p[0] + p[1]),
        pair.map(lambda p: p[0] * p[1]),
        pair.map(lambda p: p[0] / (p[1] ** 2 + 1)),
        st.tuples(inner, st.integers(2, 3)).map(lambda p: p[0] ** p[1]),
        inner.map(lambda e: sympy.sqrt(e**2 + 1)),
        inner.map(sympy.sin),
        inner.map(sympy.cos),
        inner.map(lambda e: sympy.exp(sympy.sin(e))),
        inner.map(sympy.Abs),
    )


EXPRESSIONS = st.recursive(_LEAVES, _grow, max_leaves=5).filter(lambda e: e.is_finite is not False)


def _agree(answer: str, reference: str) -> bool | None:
    try:
        return Comparison().texts_agree(normalize(answer).text, normalize(reference).text)
    except (NotParsed, TooComplex):
        return None


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS, st.randoms(use_true_random=False))
def test_two_spellings_of_one_expression_are_equal(expression: sympy.Expr, chance: random.Random) -> None:
    """Oracle: sympy's own rewriting and its LaTeX printer."""
    rewrite = chance.choice([sympy.expand, sympy.factor, sympy.together, lambda e: e])
    assert _agree(sympy.latex(rewrite(expression)), sympy.latex(expression)) is True


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS)
def test_two_expressions_are_equal_exactly_when_sympy_says_so(left: sympy.Expr, right: sympy.Expr) -> None:
    """Oracle: the exact value of the difference at a point that the grader does not use."""
    difference = (left - right).subs({X: sympy.Rational(19, 17), Y: sympy.Rational(-23, 29)})
    equal = sympy.expand(left - right) == 0 or abs(difference.evalf(30)) < 1e-25
    assert _agree(sympy.latex(left), sympy.latex(right)) is bool(equal)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="\\{}()[]|,;=<>+-*/^_!%&. 0123456789xyπ'\"abfrcsqtinlogpmu", max_size=40))
def test_any_text_is_compared_or_refused(text: str) -> None:
    """G-09: nothing but the two announced refusals comes out of the parser."""
    assert _agree(text, "x+1") in (True, False, None)

"""Equality as the math-verify library has it.

Its timeouts are off: they rest on signals, do not fire inside one long operation and are swallowed by its own parser.
The worker's death is the timeout. Of its extractions only the LaTeX grammar is used: the one for plain expressions
reads text with sympy's `parse_expr`, which evaluates Python.
"""

import logging
import re
from functools import lru_cache
from typing import Any

import sympy
import sympy.parsing.sympy_parser
import sympy.physics.units  # `simplify` imports it when first called, and it reads names of its own as text
from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]
from math_verify import LatexExtractionConfig, parse, verify

from tinsmith_server.grader.cursor import MOST_NESTING
from tinsmith_server.grader.grade import Reason
from tinsmith_server.grader.grader import Job, Verdict


def _number_of(code: str, *_: object) -> sympy.Number:
    """Takes the place of the function of sympy in which every reading of text ends with Python's `eval`. The library
    sends its numerals that way, so numerals pass, and nothing else."""
    match = _NUMERAL.fullmatch(code)
    if match is None:
        raise ValueError("text is never evaluated as Python")
    return sympy.Integer(int(match[2])) if match[1] == "Integer" else sympy.Float(match[2])


_NUMERAL = re.compile(r"\s*(Integer|Float) ?\( ?'?([0-9.]+(?:[eE][+-]?[0-9]{1,4})?)'? ?\)\s*")
sympy.parsing.sympy_parser.eval_expr = _number_of
logging.disable(logging.CRITICAL)  # the library warns of each timeout that is off


def compare(job: Job) -> Verdict:
    """`verify(gold, answer)`, in this order: it is not symmetric."""
    if _nesting(job.answer) > MOST_NESTING:
        return Verdict(reason=Reason.TOO_COMPLEX, message=f"nested more than {MOST_NESTING} deep")
    answer = _parsed(job.answer, job.keep_units)
    if not answer:
        return Verdict(reason=Reason.NOT_PARSED)
    golds = [_parsed(reference, job.keep_units) for reference in job.references]
    equal = any(verify(gold, answer, timeout_seconds=None) for gold in golds)
    return Verdict(reason=Reason.EQUAL if equal else Reason.DIFFERENT)


@lru_cache(maxsize=1024)
def _parsed(text: str, keep_units: bool) -> Any:
    """All that was read, in the library's form: expressions, then the text itself."""
    normalization = NormalizationConfig(
        basic_latex=True, units=not keep_units, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    extraction = [LatexExtractionConfig(normalization_config=normalization)]
    return parse(f"${text}$", extraction_config=extraction, parsing_timeout=None)


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest

r"""Mathematical text in one spelling, so that most equal answers become equal strings.

Rewriting only: nothing is computed. The rules are repeated until nothing changes, so normalising twice is normalising
once. What the rules do not settle is left to the parser.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

_CHARACTERS = str.maketrans(
    {
        **{chr(0xFF01 + offset): chr(0x21 + offset) for offset in range(94)},  # full-width forms
        **dict.fromkeys("−–‐‑", "-"),
        **dict.fromkeys("\t\n\r\xa0\u2009\u202f\u3000", " "),
        **dict.fromkeys("$°\u200b\u2061\u2062\ufeff", ""),
        **{"×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "⁄": "/", "∕": "/"},
        **{"π": "\\pi ", "∞": "\\infty ", "∪": "\\cup ", "∩": "\\cap ", "√": "\\sqrt ", "±": "\\pm "},
        **{"≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∈": "\\in ", "∅": "\\emptyset ", "θ": "\\theta "},
        **{"²": "^2", "³": "^3", "½": "1/2", "¼": "1/4", "¾": "3/4"},
    }
)
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_UNIT_WORDS = (
    "degrees|degree|deg|radians|radian|rad|dollars|dollar|cents|cent|usd|euros|euro|units|unit|points|point|percentage "
    "points|inches|inch|feet|foot|ft|yards|yard|miles|mile|mph|kmph|km/h|m/s|kilometers|kilometer|km|centimeters|"
    "centimeter|cm|millimeters|millimeter|mm|meters|meter|metres|metre|kilograms|kilogram|kg|grams|gram|pounds|"
    "pound|lbs|lb|ounces|ounce|oz|tons|ton|liters|liter|litres|litre|ml|gallons|gallon|hours|hour|hr|minutes|minute|min|"
    "seconds|second|sec|days|day|weeks|week|months|month|years|year|square units|cubic units|people|students|ways"
)
_TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}\\]*)\}"
_TRAILING_TEXT = re.compile(r"(?<=[0-9}!)%])\s*" + _TEXT + r"(?:\^(?:[0-9]|\{[0-9]\}))?\s*\Z")
_TRAILING_UNIT = re.compile(
    rf"(?<=[0-9}}%])(?:\s*(?:(?:square|cubic|sq|cu)\.?\s+)?(?:{_UNIT_WORDS})|\s+[mgsLl])"
    r"\.?(?:\^(?:[0-9]|\{[0-9]\}))?\s*\Z",
    re.I,
)
_FUNCTION_TEXT = re.compile(r"\\(?:operatorname|mathrm|text)\s*\{\s*(sin|cos|tan|cot|sec|csc|log|ln|exp)\s*\}")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:(?:,|\{,\}|,?\\[,!]|\\ )[0-9]{3})+(?![0-9])")
_SPACED_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?![0-9.,])")
_SPACE = re.compile(r" +(?=\S)|(?<=\S) +")
_WORDS = re.compile(r"[A-Za-z][A-Za-z ]*[A-Za-z]\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalized:
    """A text in normal spelling."""

    text: str
    unit: str
    """The unit that was taken off its end, in lower case without spaces; empty without one."""


def normalize(text: str, *, keep_percent: bool = False) -> Normalized:
    r"""`text` in normal spelling; with `keep_percent`, a percent sign stays, as `%`."""
    rules = _RULES if keep_percent else (*_RULES, _without_percent)
    present, unit = text.replace("\\$", "").translate(_CHARACTERS), ""
    for _ in range(_MOST_ROUNDS):
        before = present
        for rule in rules:
            present = rule(present)
        present, found = _without_unit(present)
        unit = found or unit
        if present == before:
            break
    return Normalized(text=present, unit=unit)


_MOST_ROUNDS = 32


def _sub(pattern: str, replacement: str | Callable[[re.Match[str]], str], flags: int = 0) -> Callable[[str], str]:
    compiled = re.compile(pattern, flags)
    return lambda text: compiled.sub(replacement, text)


def _thousands(text: str) -> str:
    """Separators of thousands go, but not in what may be a pair such as (1,234) or a list such as 1,200,5."""
    if not text or text[0] in "([" or text.startswith("\\{"):
        return text.replace("{,}", "")
    merge = lambda match: re.sub(r"[^0-9]", "", match.group())  # noqa: E731
    return _SPACED_THOUSANDS.sub(merge, _THOUSANDS.sub(merge, text))


def _spaces(text: str) -> str:
    """Spaces go where they separate nothing: between two digits, two letters or a command and a letter they stay."""
    return _SPACE.sub(lambda match: _space_between(text, match), text).strip()


def _space_between(text: str, match: re.Match[str]) -> str:
    left, right = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    return " " if left.isalnum() and right.isalnum() and left.isascii() == right.isascii() else ""


def _unwrap(text: str) -> str:
    """`\\boxed{x}`, `\\text{x}` and `{x}` around everything are x."""
    for opening in ("\\boxed{", "\\fbox{", "{"):
        if text.startswith(opening) and _closes_at_end(text, len(opening)):
            return text[len(opening) : -1].strip()
    return text


def _closes_at_end(text: str, start: int) -> bool:
    depth = 1
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return place == len(text) - 1 and text[place - 1] != "\\"
    return False


def _lower_words(text: str) -> str:
    """Words are equal in any case; single letters may be variables, whose case counts."""
    return text.lower() if _WORDS.match(text) else text


def _without_percent(text: str) -> str:
    return text.replace("%", "")


def _without_unit(text: str) -> tuple[str, str]:
    for pattern in (_TRAILING_TEXT, _TRAILING_UNIT):
        match = pattern.search(text)
        if match and match.start() > 0:
            return text[: match.start()], re.sub(r"\s|\\(?:text|mathrm)|[{}]", "", match.group()).lower()
    return text, ""


def _scale(match: re.Match[str]) -> str:
    return f"*10^{{{_SCALES[match.group(1).lower()]}}}"


_RULES: tuple[Callable[[str], str], ...] = (
    # First, so that no rule meets a long run of spaces, on which it would take quadratic time.
    _sub(r" {2,}", " "),
    _sub(r"\\(?:displaystyle|left|right|mleft|mright|bigl|bigr|big|Big)(?![A-Za-z])", ""),
    _sub(r"\\\(|\\\)|\\\[|\\\]|\\\$|\\bigl|\\bigr", ""),
    _sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    _sub(r"\\%|(?<=[0-9}]) ?(?:percent|pct)\b|\\text\s*\{\s*percent\s*\}", "%", re.I),
    _sub(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])", ""),
    _thousands,
    _sub(r"(?<!\\)\\[!,;:> ]|\\q?quad(?![A-Za-z])|~", " "),
    _sub(r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le"),
    _sub(r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge"),
    _sub(r"\\neq(?![A-Za-z])", r"\\ne"),
    _sub(r"\\(?:cdot|times)(?![A-Za-z])|\*\*(?!\*)", lambda match: "^" if match.group() == "**" else "*"),
    _sub(r"\\div(?![A-Za-z])", "/"),
    _sub(r"(?<=[0-9}]) *(thousand|million|billion|trillion)s?\b", _scale, re.I),
    _sub(r",? *\b(?:and|or)\b *|,? *\\text\s*\{\s*(?:and|or)\s*\} *", ","),
    lambda text: _FUNCTION_TEXT.sub(r"\\\1 ", text),
    _sub(r"\A\s*" + _TEXT + r"\s*\Z", r"\1"),
    _unwrap,
    _sub(r"\\(frac|[dt]?binom)\s*([0-9])\s*(?=[0-9{])", r"\\\1{\2}"),
    _sub(r"\\(frac|[dt]?binom)\s*(\{[^{}]*\})\s*([0-9])", r"\\\1\2{\3}"),
    _sub(r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
    _sub(r"(?<![0-9.])\.(?=[0-9])", "0."),
    _sub(r"\.\s*\Z", ""),
    _spaces,
    _lower_words,
)

"""The part of a model's text that is its answer."""

import re
from collections.abc import Callable, Iterator

from tinsmith_server.grader.spec import Extraction

_BRACE = re.compile(r"\\boxed\{|\\[\\{}]|[{}]")
_BARE_BOX = re.compile(r"\\boxed +([^\s{$][^$\n]*)")
_RUN_BACKWARDS = re.compile(r"[0-9][0-9.,]*")
_NUMBER = re.compile(
    r"(?<![0-9.])(?:(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?P<fraction>\.[0-9]+)?|(?P<bare>\.[0-9]+))"
)
_MINUS = re.compile(r"(?:^|[^\w)\]}.])[-\u2212]\Z")


def extract(text: str, extraction: Extraction) -> str | None:
    """What `extraction` finds in `text`; None when it finds nothing. Time grows with the length only."""
    return _EXTRACTORS[extraction](text)


def extractor_of(extraction: Extraction) -> Callable[[str], str | None]:
    """`extract` for one extraction, for loops in which every microsecond counts."""
    return _EXTRACTORS[extraction]


def braces_balance(text: str) -> bool:
    """Whether every brace that is not escaped has its partner."""
    depth = 0
    for match in _BRACE.finditer(text):
        token = match.group()
        depth += (token[-1] == "{") - (token[-1] == "}") if token[1:] not in ("{", "}", "\\") else 0
        if depth < 0:
            return False
    return depth == 0


def _whole(text: str) -> str | None:
    return text


def _last_boxed(text: str) -> str | None:
    if "\\boxed" not in text:
        return None
    boxes = [*_balanced_boxes(text), *_bare_boxes(text)]
    return max(boxes, key=lambda box: box[1])[2] if boxes else None


def _first_boxed(text: str) -> str | None:
    if "\\boxed" not in text:
        return None
    boxes = [*_balanced_boxes(text), *_bare_boxes(text)]
    return min(boxes, key=lambda box: box[0])[2] if boxes else None


def _balanced_boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, content) of each `\\boxed{}` whose braces balance, inner ones before outer ones."""
    opened: list[tuple[int, int] | None] = []  # the start and the content's start of a box; None for another brace
    for match in _BRACE.finditer(text):
        token = match.group()
        if token == "{":
            opened.append(None)
        elif token == "}" and opened:
            box = opened.pop()
            if box is not None:
                yield box[0], match.end(), text[box[1] : match.start()].strip()
        elif len(token) > 2:
            opened.append(match.span())


def _bare_boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """The same of `\\boxed 7`, which ends with the line or at a dollar sign."""
    for match in _BARE_BOX.finditer(text):
        yield match.start(), match.end(), match.group(1).strip()


def _last_integer(text: str) -> str | None:
    found = next((match for match in _numbers_backwards(text) if not (match["fraction"] or match["bare"])), None)
    return None if found is None else _sign(text, found) + found["whole"].replace(",", "")


def _last_number(text: str) -> str | None:
    found = next(_numbers_backwards(text), None)
    if found is None:
        return None
    whole = (found["whole"] or "0").replace(",", "")
    return f"{_sign(text, found)}{whole}{found['fraction'] or found['bare'] or ''}"


def _numbers_backwards(text: str) -> Iterator[re.Match[str]]:
    """Numbers, the last first: most of a long answer is never looked at. "1,234.5" is one number, "12,34" are two."""
    for run in _RUN_BACKWARDS.finditer(text[::-1]):
        start, end = len(text) - run.end(), len(text) - run.start()
        yield from reversed([*_NUMBER.finditer(text, start, end)])


def _sign(text: str, number: re.Match[str]) -> str:
    """A minus belongs to the number unless something stands before it that it subtracts from: "3-5" ends with 5."""
    start = number.start()
    return "-" if start and _MINUS.search(text[max(start - 2, 0) : start]) else ""


_EXTRACTORS: dict[Extraction, Callable[[str], str | None]] = {
    Extraction.WHOLE: _whole,
    Extraction.LAST_BOXED: _last_boxed,
    Extraction.FIRST_BOXED: _first_boxed,
    Extraction.LAST_INTEGER: _last_integer,
    Extraction.LAST_NUMBER: _last_number,
}

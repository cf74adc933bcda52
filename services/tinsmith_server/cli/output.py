"""What commands print: for people as tables and lines, for programs as JSON."""

import json
from collections.abc import Collection, Iterable, Sequence

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text


def console() -> Console:
    """Standard output: a terminal with colours, or plain lines."""
    return Console()


def say(to: Console, line: str) -> None:
    """One line, as it is, at once."""
    to.print(line, highlight=False, markup=False, soft_wrap=True)
    to.file.flush()


def print_json(value: object) -> None:
    """A value, or a message with the names of its fields as in the contract."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


def plain(value: object) -> object:
    """Messages inside the value as dictionaries; fields without a value are there too."""
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def print_table(to: Console, headings: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """A table of words: with rules on a terminal, else one line a row, in columns."""
    rows = list(rows)
    if to.is_terminal:
        to.print(table(headings, rows, title=title))
        return
    for line in plain_table(headings, rows, title=title):
        say(to, line)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> Table:
    """A table of words; nothing in them is taken for markup."""
    made = Table(title=title or None, title_justify="left")
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def plain_table(headings: Sequence[str], rows: Collection[Sequence[str]], *, title: str = "") -> list[str]:
    """The lines of a table without rules; those of one cell are put on one line."""
    cells = [[" ".join(cell.split()) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [*([f"{title}:"] if title else []), *(line for line in lines if line)]

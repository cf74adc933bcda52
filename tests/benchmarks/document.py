"""The tables of the last runs inside a document: between `<!-- table NAME -->` and `<!-- end -->`."""

import re
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.report import HEADINGS, Report, published


def write_tables(document: Path, names: Sequence[str]) -> None:
    """Replaces the tables for which there was a run and a place; the rest of the document stays as it is."""
    text = document.read_text()
    for report in filter(None, map(published, names)):
        place = re.compile(rf"(?<=<!-- table {report.name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        # Once: where nothing lies between the two, a second match would reach to the end of the next table.
        text = place.sub(_markdown(report).replace("\\", r"\\"), text, count=1)
    document.write_text(text)


def _markdown(report: Report) -> str:
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(row.cells for row in report.rows)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\n{report.machine}.\n"

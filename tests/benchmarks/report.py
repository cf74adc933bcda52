"""What a benchmark says: rows of ours beside a reference, as a table and as build/bench/NAME.json."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).resolve().parents[2] / "build/bench"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure. Ours and the reference were measured in turn in the same run, so their ratio is what counts."""

    figure: str
    unit: str
    ours: float
    reference: float
    ratio: float
    """Median of the paired ratios ours / reference."""
    target: float | None
    """Bound of the ratio; None where there is none."""
    lower_is_better: bool

    @property
    def meets_target(self) -> bool | None:
        if self.target is None:
            return None
        return self.ratio <= self.target if self.lower_is_better else self.ratio >= self.target


def paired(
    figure: str,
    unit: str,
    ours: Callable[[], float],
    reference: Callable[[], float],
    *,
    rounds: int,
    target: float | None,
    lower_is_better: bool,
) -> Row:
    """Measures the two in turn, after one round of warm-up. Each call returns its figure in `unit`."""
    ours()
    reference()
    pairs = [(ours(), reference()) for _ in range(rounds)]
    return row_of(figure, unit, pairs, target=target, lower_is_better=lower_is_better)


def row_of(
    figure: str, unit: str, pairs: Sequence[tuple[float, float]], *, target: float | None, lower_is_better: bool
) -> Row:
    """Medians of paired measurements (ours, reference)."""
    return Row(
        figure=figure,
        unit=unit,
        ours=statistics.median(mine for mine, _ in pairs),
        reference=statistics.median(theirs for _, theirs in pairs),
        ratio=statistics.median(mine / theirs for mine, theirs in pairs),
        target=target,
        lower_is_better=lower_is_better,
    )


def publish(name: str, rows: Sequence[Row]) -> None:
    """Prints the table and writes the file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    table = Table(title=name, title_justify="left")
    for heading in ("figure", "unit", "ours", "reference", "ratio", "target", ""):
        table.add_column(heading, justify="left" if heading in ("figure", "unit", "") else "right")
    words = {True: "met", False: "missed", None: ""}
    for row in rows:
        bound = "≤" if row.lower_is_better else "≥"
        target = "" if row.target is None else f"{bound} {row.target:g}"
        numbers = (f"{row.ours:,.4g}", f"{row.reference:,.4g}", f"{row.ratio:.2f}")
        table.add_row(row.figure, row.unit, *numbers, target, words[row.meets_target])
    Console(width=120).print(table)

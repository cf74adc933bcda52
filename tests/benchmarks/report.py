"""What a benchmark says: rows of ours beside a reference, as a table, and as build/bench/NAME.json."""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import Machine

FOLDER = Path(__file__).resolve().parents[2] / "build/bench"
HEADINGS = ("figure", "unit", "ours", "reference", "the reference is", "ratio", "target", "")
_WORDS = {True: "met", False: "missed", None: ""}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure. Ours and the reference were measured in turn in the same run, so their ratio is what counts."""

    figure: str
    unit: str
    ours: float
    reference: float
    peer: str
    """What the reference is."""
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

    @property
    def cells(self) -> tuple[str, ...]:
        """As text, under `HEADINGS`."""
        bound = "≤" if self.lower_is_better else "≥"
        target = "" if self.target is None else f"{bound} {self.target:g}"
        ours, reference = (
            f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in (self.ours, self.reference)
        )
        verdict = _WORDS[self.meets_target]
        return (self.figure, self.unit, ours, reference, self.peer, f"{self.ratio:.2f}", target, verdict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A table and where it was measured."""

    name: str
    rows: Sequence[Row]
    machine: Machine


def paired(
    figure: str,
    unit: str,
    ours: Callable[[], float],
    reference: Callable[[], float],
    *,
    peer: str,
    rounds: int,
    target: float | None,
    lower_is_better: bool = False,
) -> Row:
    """Measures the two in turn, after one round of warm-up. Each call returns its figure in `unit`."""
    ours()
    reference()
    pairs = [(ours(), reference()) for _ in range(rounds)]
    return row_of(figure, unit, pairs, peer=peer, target=target, lower_is_better=lower_is_better)


def row_of(
    figure: str,
    unit: str,
    pairs: Sequence[tuple[float, float]],
    *,
    peer: str,
    target: float | None,
    lower_is_better: bool = False,
) -> Row:
    """Medians of paired measurements (ours, reference). Told at once on stderr: a table takes minutes."""
    row = Row(
        figure=figure,
        unit=unit,
        ours=statistics.median(mine for mine, _ in pairs),
        reference=statistics.median(theirs for _, theirs in pairs),
        peer=peer,
        ratio=statistics.median(mine / theirs for mine, theirs in pairs),
        target=target,
        lower_is_better=lower_is_better,
    )
    print(f"{figure}: {row.ratio:.2f} x {peer}", file=sys.stderr)
    return row


def publish(report: Report) -> None:
    """Prints the table and writes the rows to NAME.json, the machine beside them to NAME.machine.json."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    _write(FOLDER / f"{report.name}.json", [asdict(row) for row in report.rows])
    _write(FOLDER / f"{report.name}.machine.json", asdict(report.machine))
    table = Table(title=report.name, title_justify="left", caption=str(report.machine), caption_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in ("ours", "reference", "ratio", "target") else "left")
    for row in report.rows:
        table.add_row(*row.cells)
    Console(width=160).print(table)


def published(name: str) -> Report | None:
    """What the last run of a benchmark wrote; None when there was none."""
    rows, machine = FOLDER / f"{name}.json", FOLDER / f"{name}.machine.json"
    if not (rows.exists() and machine.exists()):
        return None
    return Report(
        name=name,
        rows=[Row(**row) for row in json.loads(rows.read_text())],
        machine=Machine(**json.loads(machine.read_text())),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")

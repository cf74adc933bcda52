"""Writes the report of a run into a folder."""

from dataclasses import dataclass
from pathlib import Path

from tinsmith_server.report.curve import learning_curve
from tinsmith_server.report.history import History
from tinsmith_server.report.page import page


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFiles:
    """Where a report is."""

    page: Path
    curve: Path


def write_report(history: History, folder: Path) -> ReportFiles:
    """Writes `report.html` and `learning_curve.png`, replacing older ones.

    OSError when the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = ReportFiles(page=folder / "report.html", curve=folder / "learning_curve.png")
    files.curve.write_bytes(learning_curve(history, form="png"))
    svg = learning_curve(history, form="svg").decode()
    files.page.write_text(page(history, svg[svg.index("<svg") :]), encoding="utf-8")
    return files

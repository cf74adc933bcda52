"""The learning curve of a run as a picture."""

from io import BytesIO
from typing import Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tinsmith_server.report.history import History

CORRECT = "env/all/correct"
REWARD = "env/all/reward/total"
TEST_CORRECT = "test/env/all/correct"


def learning_curve(history: History, *, form: Literal["png", "svg"]) -> bytes:
    """Share of correct answers and mean reward by step, with the evaluations as points; an encoded picture."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for metric, label, style in ((CORRECT, "correct", "-"), (REWARD, "reward", "--")):
        steps, values = history.series(metric)
        if steps:
            axes.plot(steps, values, style, label=f"{label}, training samples", linewidth=2 if style == "-" else 1.3)
    tests = [
        (step, metrics[TEST_CORRECT])
        for step, metrics in sorted(history.evaluations.items())
        if TEST_CORRECT in metrics
    ]
    if tests:
        axes.plot(*zip(*tests, strict=True), "o", label="correct, test problems, greedy", markersize=6)
    axes.set(
        xlabel="step", ylabel="mean over the answers of a step", title=history.run.display_name or history.run.recipe
    )
    axes.set_ylim(top=1.05)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(loc="lower right", frameon=False)
    buffer = BytesIO()
    figure.savefig(buffer, format=form, dpi=140, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()

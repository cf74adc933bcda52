"""The page of a run: self-contained HTML."""

from collections.abc import Mapping

from google.protobuf.json_format import MessageToDict
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tinsmith.orchestrator.v1 import Run, RunState, Transcript
from tinsmith_server.report.history import History

SHOWN_METRICS = (
    "env/all/reward/total",
    "env/all/correct",
    "env/all/format",
    "optim/entropy",
    "optim/grad_norm",
    "time/total",
)
"""Columns of the table of steps, where a run has them."""


def page(history: History, curve_svg: str) -> str:
    """The page. `curve_svg` is put in as it is; everything else is escaped."""
    templates = Environment(loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined)
    templates.filters["number"] = _number
    return templates.get_template("page.html.j2").render(
        history=history,
        run=history.run,
        state=RunState.Name(history.run.state).removeprefix("RUN_STATE_").lower(),
        cards=_cards(history),
        curve_svg=Markup(curve_svg),
        transcripts=_some(history.transcripts),
        evaluation_names=sorted({name for metrics in history.evaluations.values() for name in metrics}),
        step_names=[name for name in SHOWN_METRICS if history.series(name)[0]],
        configuration=_configuration(history.run),
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _cards(history: History) -> Mapping[str, float | None]:
    first = history.steps.get(min(history.steps, default=0), {})
    return {
        "reward, first step": first.get("env/all/reward/total"),
        "reward, last five": history.mean("env/all/reward/total", last=5),
        "correct, last five": history.mean("env/all/correct", last=5),
        "seconds a step": history.mean("time/total", last=max(len(history.steps), 1)),
    }


def _some(by_step: Mapping[int, list[Transcript]]) -> Mapping[int, list[Transcript]]:
    """Those of the first, the middle and the last step that has any."""
    steps = sorted(by_step)
    return {step: by_step[step] for step in sorted({*steps[:1], *steps[len(steps) // 2 :][:1], *steps[-1:]})}


def _configuration(run: Run) -> Mapping[str, object]:
    chosen = run.config.WhichOneof("recipe")
    if chosen is None:
        return {}
    values: dict[str, object] = MessageToDict(getattr(run.config, chosen), preserving_proto_field_name=True)
    return values

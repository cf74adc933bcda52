"""The catalogue: datasets by name, in their canonical shape."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from tinsmith_server.dataset.rows import ListRows, Row, Rows, RowShape, each_chunk
from tinsmith_server.dataset.sources.arithmetic import ArithmeticRows
from tinsmith_server.dataset.sources.gsm8k import final_answer
from tinsmith_server.dataset.sources.hub import Hub
from tinsmith_server.dataset.spec import CatalogueSource, HubSource
from tinsmith_server.serving.errors import InvalidArgument, NotFound

_SUFFIX = " Write your answer in \\boxed{} format."


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogueEntry:
    """A dataset that has a name here."""

    name: str
    description: str
    hub_id: str = ""
    splits: tuple[str, ...] = ("train", "test")
    """The first is taken when none is named."""
    shape: RowShape = RowShape.PROBLEM
    options: Mapping[str, str] = field(default_factory=dict)
    """Options with their defaults."""
    open: Callable[["CatalogueEntry", str, Mapping[str, str], Hub], Rows]
    """Makes the rows of a split with options; may block."""


def find_entry(source: CatalogueSource) -> CatalogueEntry:
    """The entry of a source. NotFound with reason DATASET_NOT_FOUND lists the names."""
    entry = CATALOGUE.get(source.name)
    if entry is None:
        raise NotFound(
            f"no dataset {source.name!r} in the catalogue; there are {', '.join(CATALOGUE)}"
            + _near(source.name, CATALOGUE),
            reason="DATASET_NOT_FOUND",
            metadata={"dataset": source.name, "datasets": ",".join(CATALOGUE)},
        )
    return entry


def open_entry(source: CatalogueSource, hub: Hub) -> Rows:
    """The rows of an entry. InvalidArgument with reason UNKNOWN_OPTION or BAD_OPTION; NotFound for its split."""
    entry = find_entry(source)
    split = source.split or entry.splits[0]
    if split not in entry.splits:
        raise NotFound(
            f"{entry.name} has no split {split!r}; there are {', '.join(entry.splits)}",
            reason="DATASET_NOT_FOUND",
            metadata={"dataset": entry.name, "split": split, "splits": ",".join(entry.splits)},
        )
    for name, _ in source.options:
        if name not in entry.options:
            raise InvalidArgument(
                f"{entry.name} has no option {name!r}; there are {', '.join(entry.options) or 'none'}"
                + _near(name, entry.options),
                reason="UNKNOWN_OPTION",
                metadata={"dataset": entry.name, "option": name, "options": ",".join(entry.options)},
            )
    return entry.open(entry, split, {**entry.options, **dict(source.options)}, hub)


def _near(name: str, names: Mapping[str, object]) -> str:
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _arithmetic(entry: CatalogueEntry, split: str, options: Mapping[str, str], hub: Hub) -> Rows:
    return ArithmeticRows(
        split=split,
        seed=_integer(entry, options, "seed", least=0, most=(1 << 63) - 1),
        max_operand=_integer(entry, options, "max_operand", least=0, most=1_000_000_000),
        few_shot=_truth(entry, options, "few_shot"),
    )


def _gsm8k(entry: CatalogueEntry, split: str, options: Mapping[str, str], hub: Hub) -> Rows:
    raw = hub.open(HubSource(id=entry.hub_id, config="main", split=split))
    rows = [row for chunk in each_chunk(raw, raw.length or 0) for row in chunk]
    answers = [final_answer(row["answer"]) for row in rows]
    problems: list[Row] = [
        {
            "id": f"{split}-{number}",
            "messages": [{"role": "user", "content": row["question"] + _SUFFIX}],
            "answer": answer,
            "metadata": {"solution": row["answer"]},
        }
        for number, (row, answer) in enumerate(zip(rows, answers, strict=True))
        if answer is not None
    ]
    return ListRows(problems, size_bytes=sum(len(row["answer"]) + len(row["question"]) for row in rows))


def _integer(entry: CatalogueEntry, options: Mapping[str, str], name: str, *, least: int, most: int) -> int:
    text = options[name]
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise _bad_option(entry, name, text, f"a whole number from {least} to {most}")
    return int(text)


def _truth(entry: CatalogueEntry, options: Mapping[str, str], name: str) -> bool:
    if options[name] not in ("true", "false"):
        raise _bad_option(entry, name, options[name], "true or false")
    return options[name] == "true"


def _bad_option(entry: CatalogueEntry, name: str, value: str, wanted: str) -> InvalidArgument:
    return InvalidArgument(
        f"{entry.name}: option {name} = {value!r} must be {wanted}",
        reason="BAD_OPTION",
        metadata={"dataset": entry.name, "option": name, "value": value},
    )


CATALOGUE: Mapping[str, CatalogueEntry] = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            name="arithmetic",
            description=(
                'Additions without end, "What is x + y?", x and y from 0 to max_operand. Batch i is a function of '
                "(split, seed, i) alone; seed 0 of train is tinker-cookbook's. The splits draw from different "
                "generators, but there are only (max_operand + 1) squared problems: with a small max_operand train "
                "and test overlap. With operations other than take, rows are those of batches of 100."
            ),
            options={"max_operand": "100", "few_shot": "true", "seed": "0"},
            open=_arithmetic,
        ),
        CatalogueEntry(
            name="gsm8k",
            description=(
                'Grade school word problems. The answer is what follows the last "####" of the solution, without ":" '
                "and commas; rows without one are left out."
            ),
            hub_id="openai/gsm8k",
            open=_gsm8k,
        ),
    )
}

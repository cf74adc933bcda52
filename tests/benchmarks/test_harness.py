"""The benchmarks' own arithmetic: a harness that is wrong says wrong things about everything."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.benchmarks import report
from tests.benchmarks.arrivals import Arrival, served_by_generate
from tests.benchmarks.document import write_tables
from tests.benchmarks.examples import Examples, Padded, policy_loss
from tests.benchmarks.machine import machine
from tests.benchmarks.report import Report, paired, publish, published
from tinsmith.arrays import flat_and_offsets


def test_a_ratio_is_the_median_of_paired_rounds() -> None:
    ours, theirs = iter([99.0, 1.0, 4.0, 9.0]), iter([99.0, 1.0, 2.0, 3.0])
    row = paired("x", "s", lambda: next(ours), lambda: next(theirs), peer="y", rounds=3, target=2.0)
    assert (row.ours, row.reference, row.ratio) == (4.0, 2.0, 2.0), "the first round only warms up"
    assert row.meets_target


@pytest.mark.parametrize(("lower_is_better", "met"), [(True, True), (False, False)])
def test_a_target_is_a_bound_on_the_right_side(lower_is_better: bool, met: bool) -> None:
    row = report.row_of("x", "ms", [(1.0, 4.0)], peer="y", target=0.3, lower_is_better=lower_is_better)
    assert row.meets_target is met


@pytest.mark.parametrize("before", ["old\n", ""])
def test_tables_of_the_last_run_go_into_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.setattr(report, "FOLDER", tmp_path / "bench")
    row = report.row_of("steps \\1", "s", [(2.0, 1.0)], peer="y", target=None)
    written = Report(name="trainer", rows=[row], machine=machine(0.5))
    publish(written)
    assert published("trainer") == written
    assert published("sampler") is None
    document = tmp_path / "page.md"
    document.write_text(
        f"a\n<!-- table trainer -->\n{before}<!-- end -->\nb\n<!-- table sampler -->\nkept\n<!-- end -->\n"
    )
    for _ in range(2):
        write_tables(document, ("trainer", "sampler"))
        text = document.read_text()
        assert "| steps \\1 | s | 2 | 1 | y | 2.00 |" in text
        assert "load average 0.50 before" in text
        assert "old" not in text
        assert text.startswith("a\n<!-- table trainer -->\n|")
        assert text.endswith("<!-- end -->\nb\n<!-- table sampler -->\nkept\n<!-- end -->\n")


@pytest.mark.parametrize("advantages", [None, [0.5, -0.5, 0.5]])
def test_both_sides_train_on_the_same_numbers(advantages: list[float] | None) -> None:
    rows = [np.arange(length) for length in (9, 5, 7)]
    examples = Examples(sequences=rows, prompt=3, advantages=advantages)
    request, padded = examples.request(), Padded.of(examples, "cpu")
    tokens, offsets = flat_and_offsets(request.tokens)
    assert padded.mask is not None
    read = padded.mask.bool()
    assert padded.tokens[read].tolist() == tokens.tolist()
    assert len(tokens) == examples.tokens == offsets[-1]
    factor = "weights" if advantages is None else "advantages"
    for name, column in (("target_tokens", padded.targets), (factor, padded.factor)):
        assert flat_and_offsets(request.loss_inputs[name].ragged)[0].tolist() == column[read].tolist()
    assert padded.factor[~read].abs().sum() == 0
    assert (padded.factor[0] != 0).tolist() == [False] * 2 + [True] * 6, "a prompt of three hides two targets"
    if advantages is not None:
        sampled, _ = flat_and_offsets(request.loss_inputs["logprobs"].ragged)
        p = torch.full((len(sampled),), -6.5)
        ratio = (p - torch.from_numpy(sampled.copy())).exp()
        assert policy_loss(p, padded.factor[read]).item() == pytest.approx(-(ratio * padded.factor[read]).sum().item())


def test_micro_batches_hold_each_sequence_once_and_keep_their_bound() -> None:
    chance = np.random.default_rng(0)
    examples = Examples(sequences=[np.arange(length) for length in chance.integers(2, 60, 40)])
    parts = examples.by_length(200)
    assert sorted(len(row) for part in parts for row in part.sequences) == sorted(map(len, examples.sequences))
    assert all(len(part.sequences) * max(map(len, part.sequences)) <= 200 for part in parts)


class _Peer:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def run(self, prompts: Any, *, answers: int, tokens: int) -> float:
        self.batches.append((len(prompts), tokens))
        return 0.0


@pytest.mark.parametrize(("at_most", "batches"), [(9, [(3, 30), (1, 5)]), (1, [(1, 10), (1, 30), (1, 20), (1, 5)])])
def test_the_peers_queue_takes_what_has_come_and_pads_to_the_longest(
    at_most: int, batches: list[tuple[int, int]]
) -> None:
    times, lengths = (0.0, 0.0, 0.0, 0.2), (10, 30, 20, 5)
    coming = [
        Arrival(at_s=at, prompt=np.ones(3, np.int32), tokens=tokens) for at, tokens in zip(times, lengths, strict=True)
    ]
    peer = _Peer()
    served = served_by_generate(peer, coming, at_most=at_most)  # type: ignore[arg-type]  # what it uses of it
    assert peer.batches == batches
    assert 0 < served.tokens_per_s <= 65 / 0.2

"""Continuous batching: whatever else is in the batch, an answer is bit for bit what it is alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.sampler.lab import (
    LIMITS,
    Lab,
    decode_together,
    job_of,
    own_model,
    prompts_of,
    random_model,
    request,
    run_engine,
    with_peft_adapter,
)
from tests.sampler.test_adapters import read
from tinsmith_server.sampler.engine.calibration import calibrated
from tinsmith_server.sampler.engine.engine import DecodingEngine
from tinsmith_server.sampler.engine.job import DecodeJob
from tinsmith_server.sampler.engine.model import LlamaFamilyModel, LlamaWeights
from tinsmith_server.sampler.engine.row_products import RowProducts
from tinsmith_server.sampler.local.waiting_line import WaitingLine
from tinsmith_server.sampler.request import SampleRequest
from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument

RANKS = (4, 24, 8, 16)


@pytest.fixture(scope="module")
def model() -> LlamaFamilyModel:
    return own_model(random_model("qwen3"))


@pytest.fixture(scope="module")
def weights(model: LlamaFamilyModel, tmp_path_factory: pytest.TempPathFactory) -> list[LlamaWeights]:
    """The base and adapters of several ranks."""
    found = [model.base()]
    for rank in RANKS:
        folder = tmp_path_factory.mktemp("adapter")
        with_peft_adapter(random_model("qwen3"), folder, seed=rank, r=rank)
        found.append(model.adapted(read(folder)))
    return found


def bits(job: DecodeJob) -> tuple[bytes, ...]:
    """All that a caller learns."""
    sheet = job.future.result()
    tokens, logprobs, top = sheet.tokens(), sheet.logprobs(), sheet.top_logprobs()
    tops = () if top is None else (top.token_ids.values.tobytes(), top.logprobs.values.tobytes())
    lengths = tokens.offsets.tobytes()
    return (tokens.values.tobytes(), lengths, logprobs.values.tobytes(), sheet.stop_reasons().tobytes(), *tops)


def some_request(rng: np.random.Generator) -> SampleRequest:
    """Any mix of what a request may ask for."""
    lengths = rng.choice([1, 3, 17, 63, 64, 65, 90, 128, 150], rng.integers(1, 4)).tolist()
    options: dict[str, Any] = {
        "num_samples": int(rng.choice([1, 1, 2, 5, 8, 12])),
        "max_tokens": int(rng.choice([1, 2, 20, 40, 80])),
        "temperature": float(rng.choice([0.0, 1.0, 1.0, 0.7, 1.5])),
    }
    extras: list[dict[str, Any]] = [
        {},
        {"top_k": 9},
        {"top_p": 0.8, "min_p": 0.02},
        {"frequency_penalty": 0.5, "presence_penalty": -0.3},
        {"logit_bias": {5: 3.0, 9: -4.0}},
        {"allowed_token_ids": tuple(range(3, 60))},
        {"stop_token_ids": tuple(range(20, 30))},
        {"stop_strings": ("A", "Bc", "zz")},
        {"top_logprobs": 3},
        {"ignore_eos": True},
    ]
    for number in rng.choice(len(extras), 2, replace=False):
        options |= extras[number]
    return request(prompts_of(lengths, seed=int(rng.integers(6))), seed=int(rng.integers(100)), **options)


def arriving_at_random(
    wanted: Sequence[tuple[LlamaWeights, SampleRequest]], engine: DecodingEngine, rng: np.random.Generator
) -> list[DecodeJob]:
    """Jobs that join a running engine now and then; with every fourth comes one whose caller goes away again."""
    line, jobs, leaving = WaitingLine(), list[DecodeJob](), list[DecodeJob]()
    for number, each in enumerate(wanted):
        jobs.append(job_of(*each))
        line.join(engine, jobs[-1])
        if number % 4 == 0:
            leaving.append(job_of(*each))
            line.join(engine, leaving[-1])
        run_engine(engine, line, int(rng.integers(0, 9)))
        if leaving and rng.random() < 0.5:
            leaving.pop().future.cancel()
    for job in leaving:
        job.future.cancel()
    run_engine(engine, line)
    return jobs


@pytest.mark.parametrize(
    "limits",
    [{}, {"rows": 9}, {"kv_bytes": 1 << 19}, {"prefill_tokens": 7}, {"cache_bytes": 0}, {"cache_bytes": 1 << 16}],
    ids=str,
)
def test_bits_do_not_depend_on_company(
    model: LlamaFamilyModel, weights: list[LlamaWeights], limits: dict[str, Any]
) -> None:
    """Neighbours of all kinds join and leave; rows are put back; prompts come from the cache and do not."""
    rng = np.random.default_rng(7)
    wanted = [(weights[int(rng.integers(len(weights)))], some_request(rng)) for _ in range(16)]
    alone = [bits(decode_together(model, [each], LIMITS)[0]) for each in wanted]
    crowd = arriving_at_random(wanted, DecodingEngine(model, replace(LIMITS, **limits)), rng)
    assert [bits(job) for job in crowd] == alone
    assert len(set(alone)) == len(alone)


def test_the_next_turn_of_a_conversation_reads_only_what_is_new(lab: Lab) -> None:
    """The pages of prompt and answer come from the cache, and the bits are those of reading all of it again."""
    engine, line = DecodingEngine(lab.model, LIMITS), WaitingLine()
    [prompt, more] = prompts_of([70, 5])
    first = job_of(lab.model.base(), request([prompt], max_tokens=70, ignore_eos=True))
    line.join(engine, first)
    run_engine(engine, line)
    answer = first.future.result().tokens()[0].tolist()
    turn = request([prompt + answer + more], max_tokens=20, ignore_eos=True)
    second, afresh = job_of(lab.model.base(), turn), decode_together(lab.model, [(lab.model.base(), turn)], LIMITS)[0]
    line.join(engine, second)
    run_engine(engine, line)
    assert first.cached_tokens == afresh.cached_tokens == 0
    assert second.cached_tokens == 128
    assert bits(second) == bits(afresh)


def test_cached_pages_belong_to_one_version_of_the_weights(lab: Lab) -> None:
    engine, line = DecodingEngine(lab.model, LIMITS), WaitingLine()
    wanted = request(prompts_of([70]), max_tokens=2)
    jobs = [job_of(lab.model.base(), wanted, version=version) for version in ("a", "b", "a")]
    for job in jobs:
        line.join(engine, job)
        run_engine(engine, line)
    assert [job.cached_tokens for job in jobs] == [0, 0, 64]


def test_a_small_request_does_not_wait_for_the_end_of_a_large_one(lab: Lab) -> None:
    """The large one's youngest answers are put back, and end as they would have."""
    limits = replace(LIMITS, rows=16)
    large = request(prompts_of([9, 30]), num_samples=12, max_tokens=100, ignore_eos=True)
    small = request(prompts_of([5]), num_samples=2, max_tokens=3)
    engine, line = DecodingEngine(lab.model, limits), WaitingLine()
    jobs = [job_of(lab.model.base(), wanted) for wanted in (large, small)]
    line.join(engine, jobs[0])
    run_engine(engine, line, 20)
    line.join(engine, jobs[1])
    run_engine(engine, line, 5)
    assert jobs[1].future.done()
    assert not jobs[0].future.done()
    run_engine(engine, line)
    alone = decode_together(lab.model, [(lab.model.base(), large)], LIMITS)[0]
    assert bits(jobs[0]) == bits(alone)


def test_a_long_prompt_is_read_in_pieces_while_others_are_decoded(lab: Lab) -> None:
    engine, line = DecodingEngine(lab.model, replace(LIMITS, prefill_tokens=8)), WaitingLine()
    steps: list[int] = []
    talker = job_of(
        lab.model.base(), request(prompts_of([4]), max_tokens=60, ignore_eos=True), emit=lambda step: steps.append(1)
    )
    reader = job_of(lab.model.base(), request(prompts_of([200]), max_tokens=1))
    line.join(engine, talker)
    run_engine(engine, line, 2)
    line.join(engine, reader)
    before = len(steps)
    run_engine(engine, line, 20)
    assert len(steps) == before + 20, "a token every turn"
    assert not reader.future.done()
    run_engine(engine, line, 6)
    assert reader.future.done()


def test_a_caller_who_goes_frees_its_rows_at_the_next_turn(lab: Lab) -> None:
    engine, line = DecodingEngine(lab.model, replace(LIMITS, rows=4)), WaitingLine()
    wanted = request(prompts_of([4]), num_samples=4, max_tokens=200, ignore_eos=True)
    gone, stays = (job_of(lab.model.base(), wanted) for _ in range(2))
    line.join(engine, gone)
    run_engine(engine, line, 3)
    gone.future.cancel()
    line.join(engine, stays)
    run_engine(engine, line, 1)
    assert (engine.running, len(line), stays.rows) == (1, 0, 4)


def test_what_could_never_start_is_refused(lab: Lab) -> None:
    engine = DecodingEngine(lab.model, replace(LIMITS, kv_bytes=100 * lab.model.token_bytes))
    engine.check(job_of(lab.model.base(), request(prompts_of([20]), num_samples=50, max_tokens=30)))
    with pytest.raises(InvalidArgument, match="KV memory") as caught:
        engine.check(job_of(lab.model.base(), request(prompts_of([20, 40]), max_tokens=90)))
    assert caught.value.reason == "KV_BUDGET_EXCEEDED"


def test_memory_and_rows_are_free_again_when_all_is_done(model: LlamaFamilyModel, weights: list[LlamaWeights]) -> None:
    rng, engine = np.random.default_rng(3), DecodingEngine(model, replace(LIMITS, rows=20))
    wanted = [(weights[int(rng.integers(len(weights)))], some_request(rng)) for _ in range(8)]
    arriving_at_random(wanted, engine, rng)
    assert engine.places_taken == 0
    assert engine.free_rows == 20
    assert engine.cached_bytes <= LIMITS.cache_bytes


def test_diverged_weights_end_their_own_request_only(lab: Lab, tmp_path: Path) -> None:
    with_peft_adapter(lab.oracle, tmp_path, seed=1)
    adapter = read(tmp_path)
    adapter.loras["model.layers.0.mlp.up_proj"].b_OR.fill_(np.nan)
    good = request(prompts_of([5, 70]), num_samples=3, max_tokens=30, ignore_eos=True)
    wanted = [(lab.model.base(), good), (lab.model.adapted(adapter), good), (lab.model.base(), good)]
    jobs = decode_together(lab.model, wanted, LIMITS)
    assert isinstance(jobs[1].future.exception(), FailedPrecondition)
    alone = decode_together(lab.model, wanted[:1], LIMITS)[0]
    assert bits(jobs[0]) == bits(jobs[2]) == bits(alone)


def test_this_machines_products_keep_rows_apart(model: LlamaFamilyModel) -> None:
    with torch.inference_mode():
        assert calibrated(model, LIMITS) == LIMITS


def test_where_products_do_not_keep_rows_apart_requests_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = own_model(random_model("qwen3"))
    product = RowProducts.__call__

    def unsteady(self: RowProducts, linear: Any, x: torch.Tensor) -> torch.Tensor:
        return product(self, linear, x) * (1 + 1e-6 * len(x) * (self.tile is None))

    monkeypatch.setattr(RowProducts, "__call__", unsteady)
    with torch.inference_mode():
        assert calibrated(model, LIMITS) == LIMITS, "in tiles they do"
        assert model.products.tile is not None
        monkeypatch.setattr(RowProducts, "__call__", lambda *args: product(*args) + torch.rand(1) * 1e-6)
        limits = calibrated(model, LIMITS)
    assert (limits.jobs, limits.cache_bytes) == (1, 0)


def test_products_in_tiles_give_the_same_tokens(lab: Lab) -> None:
    tiled = LlamaFamilyModel(random_model("qwen3"), name="random", prefill_tokens=64, products=RowProducts(tile=64))
    wanted = request(prompts_of([3, 40, 90]), num_samples=2, max_tokens=20, temperature=0.0)
    found, expected = (decode_together(each, [(each.base(), wanted)], LIMITS)[0] for each in (tiled, lab.model))
    assert found.future.result().tokens().values.tolist() == expected.future.result().tokens().values.tolist()

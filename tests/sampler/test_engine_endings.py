"""However requests end, everybody else goes on, and nothing of them stays behind."""

from collections.abc import Sequence
from dataclasses import replace

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
from tests.sampler.test_engine import bits, some_request
from tinsmith_server.sampler.drawing.choice import RowParams, choose
from tinsmith_server.sampler.engine.attention import PAGE
from tinsmith_server.sampler.engine.budget import EngineLimits
from tinsmith_server.sampler.engine.engine import DecodingEngine
from tinsmith_server.sampler.engine.job import DecodeJob
from tinsmith_server.sampler.engine.model import LlamaFamilyModel, LlamaWeights
from tinsmith_server.sampler.engine.prefill import Prefill, Unread
from tinsmith_server.sampler.engine.rack import Rack, SizeClass
from tinsmith_server.sampler.local.waiting_line import WaitingLine
from tinsmith_server.sampler.request import SampleRequest, SamplingParams, Step
from tinsmith_server.serving.errors import FailedPrecondition


def joined(engine: DecodingEngine, line: WaitingLine, weights: LlamaWeights, wanted: SampleRequest) -> DecodeJob:
    """A job of `wanted` that waits."""
    job = job_of(weights, wanted)
    line.join(engine, job)
    return job


def assert_empty(engine: DecodingEngine, limits: EngineLimits) -> None:
    """Nothing is held but the cache."""
    held = (engine.running, engine.places_taken, engine.free_rows, engine.spare)
    assert held == (0, 0, limits.rows, limits.jobs)
    assert engine.cached_bytes <= limits.cache_bytes


def test_further_prompts_start_although_as_many_requests_run_as_may(lab: Lab) -> None:
    """One request at a time, of several prompts, while another waits."""
    limits = replace(LIMITS, jobs=1)
    engine, line = DecodingEngine(lab.model, limits), WaitingLine()
    large = joined(engine, line, lab.model.base(), request(prompts_of([4, 70, 9]), max_tokens=5))
    small = joined(engine, line, lab.model.base(), request(prompts_of([5]), max_tokens=3))
    run_engine(engine, line, 100)
    assert large.future.done()
    assert small.future.done()
    assert_empty(engine, limits)


def test_a_large_request_ends_although_small_ones_never_stop_coming(lab: Lab) -> None:
    limits = replace(LIMITS, rows=4)
    engine, line = DecodingEngine(lab.model, limits), WaitingLine()
    large = joined(engine, line, lab.model.base(), request(prompts_of([4]), num_samples=12, max_tokens=5))
    wanted = request(prompts_of([5]), num_samples=4, max_tokens=5, ignore_eos=True)
    for _ in range(200):
        joined(engine, line, lab.model.base(), wanted)
        run_engine(engine, line, 1)
    assert large.future.done()


def test_an_answer_that_was_put_back_fits_again(lab: Lab) -> None:
    """A single answer needs more places alone than beside others that share its prompt."""
    model = own_model(random_model("qwen3"))
    model.context = 2048
    wanted = request(prompts_of([1020]), num_samples=8, max_tokens=5, ignore_eos=True)
    limits = replace(LIMITS, kv_bytes=(1020 + 2048) * model.token_bytes, prefill_tokens=2048)
    engine, line = DecodingEngine(model, limits), WaitingLine()
    large = job_of(model.base(), wanted)
    engine.check(large)
    line.join(engine, large)
    run_engine(engine, line, 1)
    small = joined(engine, line, model.base(), request(prompts_of([5]), max_tokens=3))
    run_engine(engine, line, 100)
    assert small.future.done()
    assert large.future.done()
    assert bits(large) == bits(decode_together(model, [(model.base(), wanted)], LIMITS)[0])
    assert_empty(engine, limits)


def test_a_prompt_whose_first_token_is_nan_ends_its_own_request_only() -> None:
    """Other answers of that request, and other requests, are being decoded."""
    model = own_model(random_model("qwen2"))
    model.weights.embedding[150] = np.nan
    [short, long] = prompts_of([4, 150])
    long = [token if token != 150 else 2 for token in long[:-1]] + [150]
    good = request([short], max_tokens=40, ignore_eos=True, allowed_token_ids=tuple(range(2, 150)))
    bad = request([short, long], max_tokens=40, ignore_eos=True, allowed_token_ids=tuple(range(2, 150)))
    alone = decode_together(model, [(model.base(), good)], LIMITS)[0]
    engine, line = DecodingEngine(model, LIMITS), WaitingLine()
    jobs = [joined(engine, line, model.base(), wanted) for wanted in (bad, good)]
    run_engine(engine, line)
    assert isinstance(jobs[0].future.exception(), FailedPrecondition)
    assert bits(jobs[1]) == bits(alone)
    assert_empty(engine, LIMITS)


@pytest.mark.parametrize("fill", [0, 5])
def test_pages_of_a_shared_prompt_are_kept_anew_where_the_cache_has_lost_them(lab: Lab, fill: int) -> None:
    """The next turn reads right keys, whatever left the cache while the first one was decoded."""
    limits = replace(LIMITS, cache_bytes=12 * PAGE * lab.model.token_bytes)
    engine, line = DecodingEngine(lab.model, limits), WaitingLine()
    [prompt] = prompts_of([150])
    first = joined(
        engine, line, lab.model.base(), request([prompt], num_samples=8, max_tokens=80, ignore_eos=True, seed=3)
    )
    run_engine(engine, line, 10)
    for other in prompts_of([200] * fill, seed=9):
        joined(engine, line, lab.model.base(), request([other], max_tokens=1))
    run_engine(engine, line)
    turns = [request([prompt + answer.tolist() + [7]], max_tokens=9) for answer in first.future.result().tokens()]
    cached = 0
    for turn in reversed(turns):
        job = joined(engine, line, lab.model.base(), turn)
        run_engine(engine, line)
        assert bits(job) == bits(decode_together(lab.model, [(lab.model.base(), turn)], LIMITS)[0])
        cached += job.cached_tokens
    assert cached


def test_an_engine_that_failed_takes_requests_as_before(lab: Lab) -> None:
    limits = replace(LIMITS, rows=2)
    engine, line = DecodingEngine(lab.model, limits), WaitingLine()
    job = joined(engine, line, lab.model.base(), request(prompts_of([4]), num_samples=5))
    run_engine(engine, line, 1)
    assert engine.spare == 0
    engine.abandon(RuntimeError("out of memory"))
    assert isinstance(job.future.exception(), RuntimeError)
    assert_empty(engine, limits)


def test_a_rack_of_long_rows_holds_little_more_than_them(lab: Lab) -> None:
    long = SizeClass(shared_pages=0, own_tokens=1 << 15)
    with torch.inference_mode():
        prefill = Prefill(lab.model, [Unread(tokens=np.arange(2, 9, dtype=np.int32), adapter=None)])
        prefill.read(100)
        rack = Rack(lab.model, long)
        for _ in range(3):
            rack.add(prefill, np.zeros(1, np.int64), shared=0)
        assert rack.nbytes == 3 * long.own_tokens * lab.model.token_bytes
        rack.drop(np.array([True, True, False]))
        assert rack.nbytes <= 2 * long.own_tokens * lab.model.token_bytes


def test_a_forced_token_has_the_models_own_logprob_however_small() -> None:
    """Nothing diverged: float32 has no room for its probability, but for the logarithm."""
    raw, forced = torch.tensor([[0.0, -200.0], [3.0, 1.0]]), torch.tensor([[-torch.inf, 0.0], [3.0, 1.0]])
    params = RowParams.same(SamplingParams(max_tokens=1, temperature=0.0), 2, raw.device)
    choice = choose(forced, params, torch.zeros(2, dtype=torch.float64), raw_BV=raw)
    assert choice.tokens.tolist() == [1, 0]
    assert choice.logprobs[0] == -200.0
    unshifted = choose(
        raw[1:],
        RowParams.same(SamplingParams(max_tokens=1, temperature=0.0), 1, raw.device),
        torch.zeros(1, dtype=torch.float64),
    )
    assert choice.logprobs[1] == unshifted.logprobs[0]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaFamilyModel, list[LlamaWeights]]:
    """A model; its base and three adapters, the last two of which have been under one name, one after the other."""
    model = own_model(random_model("qwen3"))
    found = [model.base()]
    for seed, rank in enumerate((4, 12, 12)):
        folder = tmp_path_factory.mktemp("adapter")
        with_peft_adapter(random_model("qwen3"), folder, seed=seed, r=rank)
        found.append(model.adapted(read(folder)))
    return model, found


def borders(rng: np.random.Generator) -> SampleRequest:
    """Prompts about whole pages and the context's end, from a few that come again."""
    lengths = rng.choice([1, 63, 64, 65, 127, 128, 129, 192, 250, 255], rng.integers(1, 4))
    return request(
        [prompts_of([int(length)], seed=int(length))[0] for length in lengths],
        seed=int(rng.integers(9)),
        num_samples=int(rng.choice([1, 2, 6])),
        max_tokens=int(rng.choice([1, 2, 64, 65, 200])),
        ignore_eos=bool(rng.integers(2)),
        frequency_penalty=float(rng.choice([0.0, 0.4])),
        temperature=float(rng.choice([0.0, 1.0, 1.3])),
    )


def told(steps: Sequence[Step], answers: int) -> list[list[int]]:
    """What a stream said of each answer."""
    found: list[list[int]] = [[] for _ in range(answers)]
    for step in steps:
        for row, token in zip(step.rows.tolist(), step.tokens.tolist(), strict=True):
            found[row].append(token)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_left_of_requests_that_end_in_all_ways(
    versions: tuple[LlamaFamilyModel, list[LlamaWeights]], seed: int
) -> None:
    """Streams and whole answers, little room, callers who go at any time: bits as alone, and nothing stays."""
    model, weights = versions
    rng = np.random.default_rng(seed)
    limits = replace(
        LIMITS,
        rows=int(rng.choice([7, 20])),
        jobs=int(rng.choice([2, 5, 100])),
        kv_bytes=int(rng.choice([800, 1500, 4000])) * model.token_bytes,
        cache_bytes=int(rng.choice([0, 3, 40])) * PAGE * model.token_bytes,
    )
    engine, line = DecodingEngine(model, limits), WaitingLine()
    stays: list[tuple[DecodeJob, LlamaWeights, list[Step]]] = []
    leaves: list[DecodeJob] = []
    for _ in range(24):
        chosen = weights[int(rng.integers(len(weights)))]
        wanted = borders(rng) if rng.random() < 0.7 else some_request(rng)
        steps: list[Step] = []
        job = job_of(chosen, wanted, emit=steps.append if rng.random() < 0.5 else None)
        line.join(engine, job)
        if rng.random() < 0.4:
            leaves.append(job)
        else:
            stays.append((job, chosen, steps))
        run_engine(engine, line, int(rng.integers(0, 12)))
        if leaves and rng.random() < 0.6:
            leaves.pop(int(rng.integers(len(leaves)))).future.cancel()
    for job in leaves:
        job.future.cancel()
    run_engine(engine, line, 5000)
    assert_empty(engine, limits)
    assert not len(line)
    for job, chosen, steps in stays:
        assert bits(job) == bits(decode_together(model, [(chosen, job.request)], LIMITS)[0])
        if job.emit is not None:
            assert told(steps, len(job.sheet.tokens())) == [row.tolist() for row in job.future.result().tokens()]

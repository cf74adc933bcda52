"""What tokens are drawn from: filters against those of `transformers`, draws against the distribution they claim."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.sampler.lab import VOCABULARY, Lab, prompts_of
from tinsmith_server.sampler.drawing.choice import RowParams, choose, distribution, draw
from tinsmith_server.sampler.request import SamplingParams

FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.05},
    {"top_p": 0.9},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 2.0, "top_k": 50, "top_p": 0.95, "min_p": 0.1},
]


def logits(rows: int = 16, vocabulary: int = VOCABULARY, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def params(rows: int = 16, **options: Any) -> RowParams:
    return RowParams.same(SamplingParams(max_tokens=1, **options), rows, torch.device("cpu"))


def warped(scores: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """Probabilities by the logits warpers of `transformers`, in the order that the contract promises."""
    warpers = LogitsProcessorList()
    if "temperature" in options:
        warpers.append(TemperatureLogitsWarper(options["temperature"]))
    if "top_k" in options:
        warpers.append(TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        warpers.append(TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        warpers.append(MinPLogitsWarper(options["min_p"]))
    return warpers(torch.zeros(len(scores), 1, dtype=torch.int64), scores).softmax(-1)


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_distribution_equals_that_of_transformers(options: dict[str, Any]) -> None:
    found = distribution(logits(), params(**options))
    expected = warped(logits(), options)
    assert torch.equal(found > 0, expected > 0), "the same tokens are kept"
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_drawn_tokens_follow_the_distribution_of_transformers(lab: Lab, options: dict[str, Any]) -> None:
    """Chi-square of 4096 first tokens of one prompt; tokens that are filtered out are never drawn."""
    [prompt] = prompts_of([5])
    found = lab.sample([prompt], num_samples=4096, max_tokens=1, ignore_eos=True, **options)
    counts = np.bincount(found.tokens.values, minlength=VOCABULARY)
    expected = warped(lab.oracle(torch.tensor([prompt])).logits[:, -1], options)[0].double().numpy()
    assert not counts[expected == 0].any()
    common = expected * 4096 >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum()) * 4096
    kept = wanted > 0
    if kept.sum() > 1:
        wanted = wanted[kept] * observed[kept].sum() / wanted[kept].sum()
        assert stats.chisquare(observed[kept], wanted).pvalue > 1e-4


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_logprobs_are_those_of_the_distribution_drawn_from(lab: Lab, options: dict[str, Any]) -> None:
    prompts = prompts_of([3, 9, 4])
    found = lab.sample(prompts, max_tokens=6, num_samples=3, top_logprobs=4, ignore_eos=True, **options)
    for row, (tokens, scores) in enumerate(zip(found.tokens, found.logprobs, strict=True)):
        prompt, answer = prompts[row // 3], tokens.tolist()
        raw = lab.oracle(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        expected = warped(raw, options).log()
        assert np.allclose(scores, expected[range(len(answer)), answer], atol=1e-3)
        best = expected.topk(4).values.numpy()
        assert np.allclose(found.top_logprobs.logprobs[row], best, atol=1e-3)


def test_temperature_0_takes_the_likeliest_token_and_tells_the_models_own_logprob() -> None:
    scores = logits()
    found = choose(scores.clone(), params(temperature=0.0), torch.zeros(16).double())
    best = scores.log_softmax(-1).max(-1)
    assert torch.equal(found.tokens, best.indices)
    assert torch.allclose(found.logprobs, best.values, atol=1e-5)


@pytest.mark.parametrize("temperature", [1e-320, 1e-300, 1e-30, 1e-5])
def test_a_temperature_near_0_is_nearly_greedy(temperature: float) -> None:
    found = distribution(logits(), params(temperature=temperature))
    assert torch.equal(found.argmax(-1), logits().argmax(-1))
    assert torch.allclose(found.amax(-1), torch.ones(16))


def test_a_huge_temperature_draws_evenly() -> None:
    found = distribution(logits(), params(temperature=1e300))
    assert torch.allclose(found, torch.full_like(found, 1 / VOCABULARY))


def test_equal_logits_are_cut_by_token_id() -> None:
    found = distribution(torch.zeros(1, 40), params(1, top_k=3))
    assert found[0].nonzero()[:, 0].tolist() == [0, 1, 2]


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-6, 0.1, 1.0, 5.0]), min_size=1, max_size=90).filter(any),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_a_draw_inverts_the_running_sum(weights: list[float], uniform: float) -> None:
    probs = torch.tensor([weights], dtype=torch.float32) / sum(weights)
    token = int(draw(probs, torch.tensor([uniform], dtype=torch.float64)))
    assert probs[0, token] > 0
    ends = np.cumsum(probs[0].double().numpy())
    target = uniform * ends[-1]
    assert ends[token] - probs[0, token].item() - 1e-6 <= target <= ends[token] + 1e-6


def test_allowed_tokens_and_bias_shift_the_logits(lab: Lab) -> None:
    prompts, allowed = prompts_of([4, 6]), (5, 9, 70)
    found = lab.sample(
        prompts, num_samples=50, max_tokens=3, allowed_token_ids=allowed, logit_bias={9: 2.0}, top_logprobs=5
    )
    assert set(found.tokens.values.tolist()) <= set(allowed)
    first = lab.oracle(torch.tensor([prompts[0]])).logits[0, -1]
    first[9] += 2.0
    expected = first[list(allowed)].log_softmax(-1)
    ids, scores = found.top_logprobs.token_ids[0][0], found.top_logprobs.logprobs[0][0]
    told = dict(zip(ids.tolist(), scores.tolist(), strict=True))
    assert [told[token] for token in allowed] == pytest.approx(expected.tolist(), abs=1e-4)
    assert sorted(scores.tolist())[:2] == [-np.inf, -np.inf], "only three tokens could be drawn"


@pytest.mark.parametrize("name", ["logit_bias", "frequency_penalty", "presence_penalty"])
def test_a_shift_beyond_float32_is_no_nan(lab: Lab, name: str) -> None:
    shift = {7: 1e308, 8: -1e308} if name == "logit_bias" else -1e308
    found = lab.sample(prompts_of([4]), max_tokens=5, **{name: shift})
    assert np.isfinite(found.logprobs.values).all()


@pytest.mark.parametrize(("frequency", "presence"), [(0.7, 0.0), (0.0, 1.5), (0.4, -0.9)])
def test_penalties_count_generated_tokens_only(lab: Lab, frequency: float, presence: float) -> None:
    [prompt] = prompts_of([12])
    found = lab.sample(
        [prompt], num_samples=4, max_tokens=25, ignore_eos=True, frequency_penalty=frequency, presence_penalty=presence
    )
    for tokens, scores in zip(found.tokens, found.logprobs, strict=True):
        answer = tokens.tolist()
        raw = lab.oracle(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        counts = np.zeros(VOCABULARY)
        for place, token in enumerate(answer):
            shifted = raw[place] - torch.from_numpy(counts * frequency + (counts > 0) * presence)
            assert scores[place] == pytest.approx(shifted.log_softmax(-1)[token].item(), abs=1e-3)
            counts[token] += 1


def test_top_logprobs_wider_than_the_vocabulary_end_in_minus_infinity(lab: Lab) -> None:
    found = lab.sample(prompts_of([4]), max_tokens=2, top_logprobs=VOCABULARY + 3, ignore_eos=True)
    assert found.top_logprobs is not None
    ids, scores = found.top_logprobs.token_ids.values, found.top_logprobs.logprobs.values
    assert ids.shape == scores.shape == (2, VOCABULARY + 3)
    assert np.isneginf(scores[:, -3:]).all()
    assert sorted(ids[0, :VOCABULARY].tolist()) == list(range(VOCABULARY))

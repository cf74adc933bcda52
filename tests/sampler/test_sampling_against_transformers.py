"""Decoding and scoring against `transformers`."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.sampler.lab import (
    BATCH,
    LIMITS,
    VOCABULARY,
    Lab,
    finish,
    own_model,
    prompts_of,
    ragged_rows,
    random_model,
    request,
)
from tinsmith_server.sampler.local.plan import BatchLimits
from tinsmith_server.sampler.local.scores import score
from tinsmith_server.sampler.request import StopReason

EOS = 1
LENGTHS = [3, 11, 1, 24, 7, 7]


def generate_greedy(oracle: Any, prompts: list[list[int]], max_tokens: int, end: int) -> list[list[int]]:
    """Answers of `transformers` to a batch padded on the left, each up to and including its first `end`."""
    longest = max(map(len, prompts))
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = oracle.generate(
        padded, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False, eos_token_id=end, pad_token_id=0
    )
    answers = [row[longest:].tolist() for row in out]
    return [answer[: answer.index(end) + 1] if end in answer else answer for answer in answers]


def forward_logprobs(oracle: Any, sequence: list[int]) -> torch.Tensor:
    """log softmax after each position, [T, V]."""
    return oracle(torch.tensor([sequence])).logits[0].float().log_softmax(-1)


def test_greedy_equals_transformers_generate(any_lab: Lab) -> None:
    """T-03: a ragged batch, several prompts, answers that end at different times, token for token."""
    prompts = prompts_of(LENGTHS)
    end = generate_greedy(any_lab.oracle, prompts, 6, EOS)[0][-1]
    expected = generate_greedy(any_lab.oracle, prompts, 40, end)
    found = any_lab.sample(prompts, temperature=0.0, max_tokens=40, stop_token_ids=(end,), ignore_eos=True)
    assert [row.tolist() for row in found.tokens] == expected
    assert min(map(len, expected)) < 40, "the oracle should end some answers early"
    reasons = [StopReason.STOP if answer[-1] == end else StopReason.LENGTH for answer in expected]
    assert found.stop_reasons.tolist() == reasons


def test_members_of_a_group_share_the_prompt_and_are_decoded_alike(any_lab: Lab) -> None:
    prompts = prompts_of(LENGTHS)
    expected = generate_greedy(any_lab.oracle, prompts, 12, EOS)
    found = any_lab.sample(prompts, temperature=0.0, max_tokens=12, num_samples=5)
    assert [row.tolist() for row in found.tokens] == [answer for answer in expected for _ in range(5)]


def test_answers_do_not_depend_on_how_the_request_is_cut_into_batches(lab: Lab) -> None:
    prompts = prompts_of([3, 30, 4, 90, 5, 60, 3])
    wanted = request(prompts, temperature=0.0, max_tokens=10, num_samples=3)
    whole = lab.run(wanted)
    cut = lab.run(wanted, limits=replace(LIMITS, rows=4, prefill_tokens=16))
    assert np.array_equal(whole.tokens.values, cut.tokens.values)
    assert np.array_equal(whole.tokens.offsets, cut.tokens.offsets)
    assert whole.logprobs.values.tobytes() == cut.logprobs.values.tobytes()


def test_logprobs_of_sampled_tokens_equal_the_forward_pass(any_lab: Lab) -> None:
    """T-03: at temperature 1 without filters they are the model's own, which importance sampling needs."""
    prompts = prompts_of(LENGTHS)
    found = any_lab.sample(prompts, num_samples=2, max_tokens=20)
    for row, (tokens, scores) in enumerate(zip(found.tokens, found.logprobs, strict=True)):
        prompt, answer = prompts[row // 2], tokens.tolist()
        expected = forward_logprobs(any_lab.oracle, prompt + answer)[len(prompt) - 1 : -1]
        assert np.allclose(scores, expected[range(len(answer)), answer], atol=1e-4)


def test_prompt_logprobs_equal_the_forward_pass(any_lab: Lab) -> None:
    """T-03: within 1e-4; the first is undefined."""
    prompts = prompts_of(LENGTHS)
    found = any_lab.sample(prompts, prompt_logprobs=True, top_prompt_logprobs=3, max_tokens=1)
    tops = zip(found.top_prompt_logprobs.token_ids, found.top_prompt_logprobs.logprobs, strict=True)
    for prompt, scores, (ids, best) in zip(prompts, found.prompt_logprobs, tops, strict=True):
        expected = forward_logprobs(any_lab.oracle, prompt)[:-1]
        assert len(scores) == len(prompt)
        assert np.isnan(scores[0])
        assert np.allclose(scores[1:], expected[range(len(prompt) - 1), prompt[1:]], atol=1e-4)
        assert np.isneginf(best[0]).all()
        top = expected.topk(3)
        assert np.array_equal(ids[1:], top.indices)
        assert np.allclose(best[1:], top.values, atol=1e-4)


def test_target_logprobs_judge_any_token_at_any_position(any_lab: Lab) -> None:
    sequences = prompts_of(LENGTHS)
    rng = np.random.default_rng(1)
    targets = [rng.integers(0, VOCABULARY, (len(sequence), 2)) for sequence in sequences]
    job = score(any_lab.model, any_lab.model.base(), ragged_rows(sequences), ragged_rows(targets), 0, BATCH)
    for sequence, wanted, scores in zip(sequences, targets, finish(job).logprobs, strict=True):
        expected = forward_logprobs(any_lab.oracle, sequence)
        assert np.allclose(scores, expected.gather(1, torch.from_numpy(wanted)), atol=1e-4)


def test_scores_do_not_depend_on_how_many_sequences_are_scored_together(any_lab: Lab) -> None:
    sequences = prompts_of(LENGTHS)
    together = finish(score(any_lab.model, any_lab.model.base(), ragged_rows(sequences), None, 0, BATCH))
    alone = BatchLimits(rows=1, prompt_tokens=1)
    one_by_one = finish(score(any_lab.model, any_lab.model.base(), ragged_rows(sequences), None, 0, alone))
    assert np.allclose(together.logprobs.values, one_by_one.logprobs.values, atol=1e-4, equal_nan=True)


def test_equal_prompts_are_prefilled_once_and_drawn_apart(lab: Lab) -> None:
    [prompt] = prompts_of([9])
    found = lab.sample([prompt, prompt], num_samples=3, max_tokens=12, temperature=2.0)
    rows = [row.tolist() for row in found.tokens]
    assert found.usage.prompt_tokens == 18
    assert found.usage.cached_prompt_tokens == 9
    assert rows[:3] == rows[3:], "the same prompt with the same seed gives the same answers"
    assert len({tuple(row) for row in rows[:3]}) == 3, "members of a group differ"


def test_answers_end_where_the_context_ends(lab: Lab) -> None:
    [prompt] = prompts_of([250])
    found = lab.sample([prompt], max_tokens=100, ignore_eos=True)
    assert len(found.tokens[0]) == 6
    assert found.stop_reasons.tolist() == [StopReason.LENGTH]


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_half_precision_stays_near_the_full_model(dtype: torch.dtype) -> None:
    oracle = random_model("qwen3")
    lab = Lab(oracle=oracle, model=own_model(oracle.to(dtype)))
    half = lab.oracle
    prompts = prompts_of(LENGTHS)
    found = lab.sample(prompts, max_tokens=6)
    for prompt, tokens, scores in zip(prompts, found.tokens, found.logprobs, strict=True):
        answer = tokens.tolist()
        expected = forward_logprobs(half, prompt + answer)[len(prompt) - 1 : -1][range(len(answer)), answer]
        assert np.abs(scores - expected.numpy()).mean() < 0.3

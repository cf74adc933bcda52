"""The arithmetic of math_rl, against plain loops and published formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinsmith.types.v1 import StopCondition
from tinsmith_server.orchestrator.numerics import group_advantages, is_constant
from tinsmith_server.orchestrator.peers import Answers, EpisodeGroups, Format, Outcomes, Prompts, Said
from tinsmith_server.orchestrator.ragged import Ragged, offsets_of
from tinsmith_server.orchestrator.recipes.assemble import assemble
from tinsmith_server.orchestrator.recipes.metrics import drift, entropy, over_batches, reduced, rollout_metrics
from tinsmith_server.orchestrator.recipes.rollout import Asked, Rollout
from tinsmith_server.orchestrator.recipes.seeds import derived_seed, group_seeds

rewards = st.lists(st.floats(-2, 2), min_size=1, max_size=6)


def ragged_rows(values: list[list[float]], dtype: type) -> Ragged:
    flat = np.array([value for row in values for value in row], dtype)
    return Ragged(flat=flat, offsets=offsets_of([len(row) for row in values]))


def a_rollout(prompts: list[list[int]], answers: list[list[int]], rewards_N: list[float], group_size: int) -> Rollout:
    logprobs = [[-(token + 1) / 8 for token in answer] for answer in answers]
    tokens = ragged_rows(answers, np.int32)
    return Rollout(
        asked=Asked(
            episodes=EpisodeGroups(
                problems=(), group_size=group_size, episode_ids=(), conversations=(), stop_strings=()
            ),
            prompts=Prompts(
                tokens=ragged_rows(prompts, np.int32), stop=StopCondition(), format=Format(model="", renderer="")
            ),
        ),
        answers=Answers(tokens=tokens, logprobs=ragged_rows(logprobs, np.float32), truncated=tokens.lengths >= 4),
        outcomes=Outcomes(
            rewards=np.array(rewards_N), metrics={"correct": np.array(rewards_N)}, said=Said(responses=())
        ),
    )


@pytest.mark.parametrize(("group", "constant", "advantages"), [([1, 1], True, [0, 0]), ([1, 0], False, [0.5, -0.5])])
def test_a_reward_is_judged_by_its_group(group: list[float], constant: bool, advantages: list[float]) -> None:
    """N-17."""
    rewards_PG = np.array([group], np.float64)
    assert is_constant(rewards_PG).tolist() == [constant]
    assert group_advantages(rewards_PG).tolist() == [advantages]


@given(
    st.integers(1, 5).flatmap(
        lambda size: st.lists(st.lists(st.floats(-3, 3), min_size=size, max_size=size), min_size=1)
    )
)
def test_advantages_of_a_group_sum_to_zero_and_keep_their_order(groups: list[list[float]]) -> None:
    rewards_PG = np.array(groups)
    advantages_PG = group_advantages(rewards_PG)
    np.testing.assert_allclose(advantages_PG.sum(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(advantages_PG - rewards_PG, -rewards_PG.mean(axis=1, keepdims=True) + 0 * rewards_PG)
    np.testing.assert_array_equal(is_constant(rewards_PG), rewards_PG.min(axis=1) == rewards_PG.max(axis=1))


def test_an_answer_without_a_reward_counts_in_no_mean() -> None:
    rewards_PG = np.array([[1.0, np.nan, 0.0], [np.nan, np.nan, np.nan], [np.nan, 1.0, 1.0]])
    assert group_advantages(rewards_PG).tolist() == [[0.5, 0.0, -0.5], [0, 0, 0], [0, 0, 0]]
    assert is_constant(rewards_PG).tolist() == [False, True, True]


token_rows = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@st.composite
def rollouts(draw: st.DrawFn) -> tuple[Rollout, NDArray[np.bool_]]:
    groups, size = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    prompts = draw(st.lists(token_rows, min_size=groups, max_size=groups))
    answers = draw(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=groups * size, max_size=groups * size))
    values = draw(st.lists(st.sampled_from([0.0, 1.0, -0.1, np.nan]), min_size=groups * size, max_size=groups * size))
    keep = draw(st.lists(st.booleans(), min_size=groups, max_size=groups))
    return a_rollout(prompts, answers, values, size), np.array(keep)


@given(rollouts())
def test_data_are_what_a_loop_over_tokens_makes(drawn: tuple[Rollout, NDArray[np.bool_]]) -> None:
    """recipes.md 1.4: tokens[:-1] against tokens[1:]; logprobs and advantages 0 on the prompt."""
    rollout, keep_P = drawn
    advantages_PG = group_advantages(rollout.rewards_PG)
    data = assemble(rollout, advantages_PG, keep_P)
    expected, in_answer = [], []
    for number, advantage in enumerate(advantages_PG.reshape(-1)):
        group = number // rollout.group_size
        answer = rollout.answers.tokens.row(number).tolist()
        if not keep_P[group] or not answer or np.isnan(rollout.outcomes.rewards[number]):
            continue
        prompt = rollout.prompts_P.row(group).tolist()
        silent = [0.0] * (len(prompt) - 1)
        tokens = prompt + answer
        logprobs = silent + rollout.answers.logprobs.row(number).tolist()
        in_answer += [False] * len(silent) + [True] * len(answer)
        expected.append((tokens[:-1], tokens[1:], logprobs, silent + [np.float32(advantage)] * len(answer)))
    columns = (data.tokens, data.target_tokens, data.logprobs, data.advantages)
    made = [tuple(column.row(number).tolist() for column in columns) for number in range(len(data))]
    assert made == expected
    assert [column.flat.dtype.str for column in columns] == ["<i4", "<i8", "<f4", "<f4"]
    assert data.in_answer.tolist() == in_answer


@given(rollouts(), st.integers(1, 6))
def test_parts_laid_end_to_end_are_the_data(drawn: tuple[Rollout, NDArray[np.bool_]], parts: int) -> None:
    rollout, keep_P = drawn
    data = assemble(rollout, group_advantages(rollout.rewards_PG), keep_P)
    split = data.split(parts)
    assert len(split) == min(parts, len(data))
    assert sum(map(len, split)) == len(data)
    for name in ("tokens", "target_tokens", "logprobs", "advantages"):
        pieces = [getattr(part, name).flat for part in split]
        whole = getattr(data, name).flat
        np.testing.assert_array_equal(np.concatenate([*pieces, whole[:0]]), whole)


def test_drift_and_entropy_are_means_over_answer_tokens() -> None:
    """N-18: v1 = mean(q - p), v2 = mean((q - p)^2) / 2; entropy = mean(-q); nothing without such tokens."""
    rollout = a_rollout([[1, 2, 3]], [[4, 5], [6]], [1.0, 0.0], 2)
    data = assemble(rollout, group_advantages(rollout.rewards_PG), np.array([True]))
    p = np.linspace(-1, -0.3, len(data.tokens.flat), dtype=np.float32)
    q = data.logprobs.flat
    mask = q != 0
    found = drift(data, p)
    assert found["optim/kl_sample_train_v1"] == pytest.approx((q - p)[mask].mean(), rel=1e-5)
    assert found["optim/kl_sample_train_v2"] == pytest.approx(((q - p)[mask] ** 2).mean() / 2, rel=1e-5)
    assert entropy(rollout.answers.logprobs.flat)["optim/entropy"] == pytest.approx(-q[mask].mean())
    nothing = assemble(rollout, group_advantages(rollout.rewards_PG), np.array([False]))
    assert drift(nothing, np.zeros(0, np.float32)) == {}
    assert entropy(np.zeros(0, np.float32)) == {}


def test_rollouts_are_measured_as_the_cookbook_names_it() -> None:
    rollout = a_rollout([[1, 2], [3]], [[1], [2, 3], [4], [5, 6, 7, 8]], [1.0, 0.0, 1.0, np.nan], 2)
    found = rollout_metrics(rollout)
    assert found["env/all/reward/total"] == found["env/all/correct"] == pytest.approx(2 / 3)
    assert (found["env/all/total_episodes"], found["env/all/failed_episodes"]) == (4, 1)
    assert (found["env/all/total_ob_tokens"], found["env/all/ob_tokens_per_turn"]) == (6, 1.5)
    assert (found["env/all/total_ac_tokens"], found["env/all/ac_tokens_per_turn"]) == (8, 2)
    assert found["env/all/num_truncations_max_turn_tokens"] == 1
    assert (found["env/all/by_group/frac_mixed"], found["env/all/by_group/frac_all_good"]) == (1, 0)


@given(rewards, rewards)
def test_metrics_of_two_batches_are_those_of_both_together(first: list[float], second: list[float]) -> None:
    both = [a_rollout([[1]] * len(values), [[2, 3]] * len(values), values, 1) for values in (first, second)]
    together = a_rollout([[1]] * len(first + second), [[2, 3]] * len(first + second), first + second, 1)
    assert over_batches([rollout_metrics(one) for one in both]) == pytest.approx(rollout_metrics(together))


def test_metrics_of_several_calls_are_reduced_as_their_names_say() -> None:
    parts = [
        {"loss:sum": 1.0, "grad_norm:mean": 2.0, "ratio:max": 3.0},
        {"loss:sum": 2.0, "grad_norm:mean": 4.0, "ratio:max": 1.0},
    ]
    assert reduced(parts) == {"optim/loss:sum": 3.0, "optim/grad_norm": 3.0, "optim/ratio:max": 3.0}


def test_seeds_stay_what_they_are() -> None:
    """Written down: a change would change every run."""
    assert derived_seed(0, "sample", 1, 0) == 2937276601056299689
    seeds = {seed for run in (-1, 0, 1) for step in range(20) for seed in group_seeds(run, "sample", step, 20)}
    assert len(seeds) == 3 * 20 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)

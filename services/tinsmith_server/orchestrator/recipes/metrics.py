"""What a step is measured by: names as the cookbook has them (`env/all/reward/total`, `optim/entropy`, ...)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tinsmith.orchestrator.v1 import MathRlConfig
from tinsmith_server.orchestrator import numerics
from tinsmith_server.orchestrator.peers import Update
from tinsmith_server.orchestrator.recipes.assemble import PolicyData
from tinsmith_server.orchestrator.recipes.rollout import Rollout
from tinsmith_server.orchestrator.recipes.stopwatch import Stopwatch

Metrics = dict[str, float]

GOOD_REWARD = 0.5
"""From here on an answer counts as good in `by_group`."""


def step_metrics(
    config: MathRlConfig,
    step: int,
    rollout: Rollout,
    dropped_P: NDArray[np.bool_],
    data: PolicyData,
    update: Update,
    watch: Stopwatch,
) -> Metrics:
    """All metrics of a training step."""
    return {
        **rollout_metrics(rollout),
        **entropy(rollout.answers.logprobs.flat),
        **drift(data, update.logprobs),
        **reduced(update.losses),
        **reduced(update.steps),
        "optim/lr": config.learning_rate,
        "optim/data": len(data),
        "optim/constant_groups_dropped": int(dropped_P.sum()),
        "progress/batch": step,
        "progress/done_frac": step / config.steps,
        **watch.metrics(),
    }


def rollout_metrics(rollout: Rollout) -> Metrics:
    """`env/all/*`: rewards, what the environment measured, tokens, truncations, how groups are mixed."""
    answers, rewards_N = rollout.answers, rollout.outcomes.rewards
    episodes = len(answers.tokens)
    observed = int(rollout.prompts_P.lengths.sum()) * rollout.group_size
    acted = len(answers.tokens.flat)
    metrics = {
        "reward/total": _mean(rewards_N),
        **{name: _mean(values) for name, values in rollout.metrics_N.items()},
        "ac_tokens_per_turn": acted / max(episodes, 1),
        "ob_tokens_per_turn": observed / max(episodes, 1),
        "turns_per_episode": 1.0,
        "total_episodes": episodes,
        "total_turns": episodes,
        "total_ac_tokens": acted,
        "total_ob_tokens": observed,
        "num_truncations_max_turn_tokens": int(answers.truncated.sum()),
        "failed_episodes": int(np.isnan(rewards_N).sum()),
        **_by_group(rollout.rewards_PG),
    }
    return {f"env/all/{name}": float(value) for name, value in metrics.items() if not math.isnan(value)}


def over_batches(batches: Sequence[Metrics]) -> Metrics:
    """`rollout_metrics` of several rollouts as of one: numbers are summed, means weighted by episodes."""
    episodes = [batch["env/all/total_episodes"] for batch in batches]
    names = sorted({name for batch in batches for name in batch})
    joined: Metrics = {}
    for name in names:
        found = [(batch[name], weight) for batch, weight in zip(batches, episodes, strict=True) if name in batch]
        total = math.fsum(value * (1 if _is_count(name) else weight) for value, weight in found)
        joined[name] = total if _is_count(name) else total / math.fsum(weight for _, weight in found)
    return joined


def _is_count(name: str) -> bool:
    return name.removeprefix("env/all/").startswith(("total_", "num_", "failed_"))


def _by_group(rewards_PG: NDArray[np.float64]) -> Metrics:
    good_PG = np.nan_to_num(rewards_PG, nan=-np.inf) >= GOOD_REWARD
    all_good, all_bad = good_PG.all(axis=1).mean(), (~good_PG).all(axis=1).mean()
    return {
        "by_group/frac_mixed": 1.0 - all_good - all_bad,
        "by_group/frac_all_good": all_good,
        "by_group/frac_all_bad": all_bad,
    }


def entropy(logprobs: NDArray[np.float32]) -> Metrics:
    """`optim/entropy`: mean(-q) over the sampled tokens; nothing when there are none."""
    found = numerics.entropy(logprobs)
    return {} if found is None else {"optim/entropy": found}


def drift(data: PolicyData, trained_logprobs: NDArray[np.float32]) -> Metrics:
    """How far the sampler's logprobs q are from the trainer's p before the update, over the tokens of answers.

    `optim/kl_sample_train_v1` = mean(q - p), `_v2` = mean((q - p)^2) / 2; nothing when there are no such tokens.
    """
    found = numerics.kl_metrics(data.logprobs.flat[data.in_answer], trained_logprobs[data.in_answer])
    if found is None:
        return {}
    return {"optim/kl_sample_train_v1": found.v1, "optim/kl_sample_train_v2": found.v2}


def reduced(parts: Sequence[Mapping[str, float]]) -> Metrics:
    """Metrics of several calls as one, each by the reduction in its name: "loss:sum", "grad_norm:mean", "x:max".

    The names become `optim/*`; ":mean" is left out of them.
    """
    names = sorted({name for part in parts for name in part})
    values = {name: [part[name] for part in parts if name in part] for name in names}
    return {f"optim/{name.removesuffix(':mean')}": _reduce(name.rpartition(":")[2], values[name]) for name in names}


def _reduce(how: str, values: Sequence[float]) -> float:
    if how == "sum":
        return math.fsum(values)
    if how in ("max", "min"):
        return max(values) if how == "max" else min(values)
    return math.fsum(values) / len(values)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are there; NaN when there is none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else math.nan

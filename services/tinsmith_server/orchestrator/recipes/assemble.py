"""Rollouts as data for a policy-gradient loss, without a loop over tokens."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.orchestrator.peers import Datums
from tinsmith_server.orchestrator.ragged import Ragged, joined
from tinsmith_server.orchestrator.recipes.rollout import Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyData:
    """D data as ragged columns with equal boundaries; a datum of P prompt and A answer tokens has P + A - 1 elements.

    Element t reads token t and predicts token t + 1: the sequence without its last token against the same without its
    first one.
    """

    tokens: Ragged
    """int32: the prompt and the answer without its last token."""
    target_tokens: Ragged
    """int64."""
    logprobs: Ragged
    """float32: what the sampler said of each target; 0 where the target belongs to the prompt."""
    advantages: Ragged
    """float32: the answer's advantage; 0 where the target belongs to the prompt."""
    in_answer: NDArray[np.bool_]
    """Which elements' targets belong to the answer, [elements]."""

    def __len__(self) -> int:
        return len(self.tokens)

    def datums(self) -> Datums:
        """As the trainer takes them."""
        inputs = {"target_tokens": self.target_tokens, "logprobs": self.logprobs, "advantages": self.advantages}
        return Datums(tokens=self.tokens, loss_inputs=inputs)

    def split(self, parts: int) -> list["PolicyData"]:
        """The data in at most so many parts of nearly equal numbers, in order; none is empty."""
        rows = np.array_split(np.arange(len(self)), parts)
        return [self._take(part) for part in rows if len(part)]

    def _take(self, rows: NDArray[np.int64]) -> "PolicyData":
        return PolicyData(
            tokens=self.tokens.take(rows),
            target_tokens=self.target_tokens.take(rows),
            logprobs=self.logprobs.take(rows),
            advantages=self.advantages.take(rows),
            in_answer=Ragged(flat=self.in_answer, offsets=self.tokens.offsets).take(rows).flat,
        )


def assemble(rollout: Rollout, advantages_PG: NDArray[np.float64], keep_P: NDArray[np.bool_]) -> PolicyData:
    """One datum for each answer of the groups to keep that has tokens and a reward, in the rollout's order."""
    advantages_N = advantages_PG.reshape(-1)
    group_N = np.arange(len(advantages_N)) // rollout.group_size
    has_reward_N = ~np.isnan(rollout.outcomes.rewards)
    rows_D = np.flatnonzero(keep_P[group_N] & has_reward_N & (rollout.answers.tokens.lengths > 0))
    answers = rollout.answers.tokens.take(rows_D)
    prompts = rollout.prompts_P.take(group_N[rows_D])
    logprobs = rollout.answers.logprobs.take(rows_D)
    silent = Ragged(flat=np.zeros(len(prompts.flat), np.float32), offsets=prompts.offsets)
    spread = np.repeat(advantages_N[rows_D], answers.lengths).astype(np.float32)
    advantages = Ragged(flat=spread, offsets=answers.offsets)
    said = Ragged(flat=np.ones(len(answers.flat), np.float32), offsets=answers.offsets)
    sequences = joined(prompts, answers)
    return PolicyData(
        tokens=_without_last(sequences),
        target_tokens=_without_first(sequences, np.int64),
        logprobs=_without_first(joined(silent, logprobs), np.float32),
        advantages=_without_first(joined(silent, advantages), np.float32),
        in_answer=_without_first(joined(silent, said), np.bool_).flat,
    )


def _without_last(rows: Ragged) -> Ragged:
    return _without(rows, rows.offsets[1:] - 1)


def _without_first(rows: Ragged, dtype: type[np.generic]) -> Ragged:
    shortened = _without(rows, rows.offsets[:-1])
    return Ragged(flat=shortened.flat.astype(dtype, copy=False), offsets=shortened.offsets)


def _without(rows: Ragged, elements: NDArray[np.int64]) -> Ragged:
    """The rows without one element each, given by its place in the buffer; every row has one."""
    return Ragged(flat=np.delete(rows.flat, elements), offsets=rows.offsets - np.arange(len(rows.offsets)))

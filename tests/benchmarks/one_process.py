"""math_rl in one process: the engines of the services called one after the other, without messages or event loop.

A step does what the recipe's does, by the same seeds, so that its rewards are those of the suite. Left out is what only
the suite needs: episodes, metrics, events, checkpoints. Weights go from trainer to sampler in memory.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.benchmarks.one_engine import OneEngine
from tinsmith.orchestrator.v1 import MathRlConfig
from tinsmith.types.v1 import StopCondition
from tinsmith_server.dataset.renderers.chat_template import ChatTemplate
from tinsmith_server.dataset.renderers.messages import Message, Parsed, Termination
from tinsmith_server.dataset.renderers.tokenizer import Tokenizer
from tinsmith_server.dataset.rows import Row
from tinsmith_server.dataset.sources.arithmetic import ArithmeticRows
from tinsmith_server.grader.grade import Grade, Reason
from tinsmith_server.grader.math_grader import MathGrader
from tinsmith_server.grader.spec import Extraction, MathSpec
from tinsmith_server.models import load_causal_lm, load_tokenizer
from tinsmith_server.orchestrator import ragged
from tinsmith_server.orchestrator.numerics import group_advantages, is_constant
from tinsmith_server.orchestrator.peers import Answers, EpisodeGroups, Format, Outcomes, Prompts, Said
from tinsmith_server.orchestrator.recipes.assemble import PolicyData, assemble
from tinsmith_server.orchestrator.recipes.rollout import Asked, Rollout
from tinsmith_server.orchestrator.recipes.seeds import derived_seed, group_seeds
from tinsmith_server.sampler import ragged as sampler_ragged
from tinsmith_server.sampler import request as sampling
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer import ragged as trainer_ragged
from tinsmith_server.trainer.checkpoints.adapter_files import CONFIG, WEIGHTS
from tinsmith_server.trainer.local.backend import causal_model
from tinsmith_server.trainer.local.trained_model import Limits, TrainedModel
from tinsmith_server.trainer.losses import ImportanceSampling
from tinsmith_server.trainer.request import AdamParams, Batch, TrainingCall

_MOST_CHARS = 4096
"""Of an answer; those of a benchmark are shorter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a step took and brought."""

    seconds: float
    reward: float
    """Mean over the answers."""


class OneProcess:
    """math_rl on a base model in this process, on one thread. Reads of a configuration what the benchmark sets."""

    def __init__(self, directory: Path, config: MathRlConfig) -> None:
        torch.set_num_threads(1)
        self._config = config
        base = load_causal_lm(directory)
        self._sampler = OneEngine(base, name=config.base_model)
        self._base = causal_model(base, name=config.base_model)
        self._tokenizer = Tokenizer(config.base_model, load_tokenizer(directory), directory)
        self._renderer = ChatTemplate(self._tokenizer)
        self._grader = MathGrader(MathSpec(extraction=Extraction.LAST_INTEGER), max_answer_chars=_MOST_CHARS)
        self._problems = ArithmeticRows(
            split="train", seed=0, max_operand=9, few_shot=False, block=config.groups_per_batch
        )

    def run(self) -> list[Step]:
        """All steps, from a fresh adapter."""
        config = self._config
        shape = LoraShape(rank=config.lora_rank, alpha=config.lora_alpha, seed=derived_seed(config.seed, "adapter"))
        model = TrainedModel(self._base, shape, limits=Limits())
        self._publish(model)
        steps = []
        for number in range(1, config.steps + 1):
            began = time.perf_counter()
            rollout = self._rollout(number)
            self._train(model, rollout)
            self._publish(model)
            steps.append(Step(seconds=time.perf_counter() - began, reward=float(rollout.rewards_PG.mean())))
        return steps

    def _publish(self, model: TrainedModel) -> None:
        """The adapter as the sampler gets it."""
        files = model.adapter_files()
        self._sampler.take(files[CONFIG], files[WEIGHTS])

    def _rollout(self, step: int) -> Rollout:
        first = (step - 1) * self._config.groups_per_batch
        problems = self._problems.read(np.arange(first, first + self._config.groups_per_batch))
        chats = [[Message(role=said["role"], content=said["content"]) for said in row["messages"]] for row in problems]
        prompts = self._renderer.prompts(chats, (), "")
        answers = self._sample(step, prompts)
        parsed = self._renderer.parse([row.tolist() for row in answers.tokens])
        return self._as_rollout(prompts, answers, self._rewards(problems, parsed))

    def _sample(self, step: int, prompts: Sequence[Sequence[int]]) -> sampling.Answers:
        config, stop = self._config, self._renderer.stop
        request = sampling.SampleRequest(
            model=sampling.ModelRef(base_model=config.base_model),
            prompts=sampler_ragged.Ragged.of([np.array(prompt, np.int32) for prompt in prompts], np.int32),
            num_samples=config.group_size,
            params=sampling.SamplingParams(
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                stop_strings=stop.strings,
                stop_token_ids=stop.token_ids,
            ),
            seeds=np.array(group_seeds(config.seed, "sample", step, len(prompts))),
        )
        return self._sampler.sample(request)

    def _rewards(self, problems: Sequence[Row], parsed: Sequence[Parsed]) -> NDArray[np.float64]:
        """correct + format_coefficient * (format - 1), as the environment has it, float64 [answers]."""
        size, rewards = self._config.group_size, []
        for number, answer in enumerate(parsed):
            grade = self._grader.grade(answer.message.content, (problems[number // size]["answer"],))
            assert isinstance(grade, Grade), "integers are compared at once"
            ends = answer.termination is Termination.STOP_SEQUENCE
            well_formed = float(ends and grade.reason is not Reason.NO_ANSWER)
            rewards.append(grade.score + self._config.format_coefficient * (well_formed - 1))
        return np.array(rewards)

    def _as_rollout(
        self, prompts: Sequence[Sequence[int]], answers: sampling.Answers, rewards: NDArray[np.float64]
    ) -> Rollout:
        """As the orchestrator assembles data from it."""
        tokens = ragged.Ragged(
            flat=np.array([token for prompt in prompts for token in prompt], np.int32),
            offsets=ragged.offsets_of([len(prompt) for prompt in prompts]),
        )
        form = Format(model=self._config.base_model, renderer=self._config.renderer)
        episodes = EpisodeGroups(
            problems=(), group_size=self._config.group_size, episode_ids=(), conversations=(), stop_strings=()
        )
        return Rollout(
            asked=Asked(episodes=episodes, prompts=Prompts(tokens=tokens, stop=StopCondition(), format=form)),
            answers=Answers(
                tokens=_for_recipe(answers.tokens),
                logprobs=_for_recipe(answers.logprobs),
                truncated=answers.stop_reasons == sampling.StopReason.LENGTH,
            ),
            outcomes=Outcomes(rewards=rewards, metrics={}, said=Said(responses=())),
        )

    def _train(self, model: TrainedModel, rollout: Rollout) -> None:
        rewards_PG = rollout.rewards_PG
        dropped_P = is_constant(rewards_PG) & self._config.remove_constant_groups
        data = assemble(rollout, group_advantages(rewards_PG), ~dropped_P)
        if len(data):
            model.forward_backward(TrainingCall(batch=_batch(data), loss=ImportanceSampling()))
            model.optim_step(AdamParams(learning_rate=self._config.learning_rate))


def _batch(data: PolicyData) -> Batch:
    columns = {"target_tokens": data.target_tokens, "logprobs": data.logprobs, "advantages": data.advantages}
    return Batch(
        tokens=_for_trainer(data.tokens), columns={name: _for_trainer(column) for name, column in columns.items()}
    )


def _for_trainer(rows: ragged.Ragged) -> trainer_ragged.Ragged:
    return trainer_ragged.Ragged(values=rows.flat, offsets=rows.offsets)


def _for_recipe(rows: sampler_ragged.Ragged) -> ragged.Ragged:
    return ragged.Ragged(flat=rows.values, offsets=rows.offsets)

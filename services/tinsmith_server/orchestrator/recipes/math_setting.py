"""What math_rl trains and on what, from its configuration: the model, the problems, the environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinsmith.dataset.v1 import Batching, CatalogueSource, DatasetSpec, Operation, Shuffle, Skip, Take
from tinsmith.environment.v1 import EnvironmentSpec, ProblemEnvironment
from tinsmith.grader.v1 import Extraction, GraderSpec, MathGrader
from tinsmith.orchestrator.v1 import MathRlConfig
from tinsmith.types.v1 import Problem
from tinsmith_server.orchestrator.active_run import MadeModel
from tinsmith_server.orchestrator.peers import DatasetFacts, Format, FreshModel, Peers, ProblemSource
from tinsmith_server.orchestrator.recipes.rollout import Asked
from tinsmith_server.orchestrator.recipes.seeds import derived_seed, group_seeds

EVALUATION_BATCH = 512
"""Most problems that an evaluation asks at once."""

_TEST_SPLIT = "test"
_EXTRACTIONS: Mapping[str, Extraction.ValueType] = {
    "whole": Extraction.EXTRACTION_WHOLE,
    "last_boxed": Extraction.EXTRACTION_LAST_BOXED,
    "last_integer": Extraction.EXTRACTION_LAST_INTEGER,
    "last_number": Extraction.EXTRACTION_LAST_NUMBER,
}


def fresh_model(config: MathRlConfig) -> FreshModel:
    """How the model begins."""
    return FreshModel(
        base_model=config.base_model,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_seed=derived_seed(config.seed, "adapter"),
        load_checkpoint=config.load_checkpoint,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MathSetting:
    """What a run of math_rl trains on and is judged by."""

    config: MathRlConfig
    facts: DatasetFacts
    """Of the problems to train on."""
    training: ProblemSource
    """Batch s - 1 is that of step s: without end, each time through the problems in another order."""
    held_out: ProblemSource
    """The first `eval_problems` problems that are not trained on."""

    @property
    def made_model(self) -> MadeModel:
        """What the registry is told of the model that the run makes."""
        parents = [self.config.base_model, *filter(None, [self.config.load_checkpoint])]
        return MadeModel(parents=parents, dataset_fingerprint=self.facts.fingerprint)


async def open_setting(config: MathRlConfig, peers: Peers) -> MathSetting:
    """The setting; asks the dataset service for facts about the problems."""
    dataset = await _problems(config, peers)
    facts = await peers.dataset.describe(dataset)
    training = Batching(
        batch_size=config.groups_per_batch,
        epochs=0,
        shuffle_epochs=facts.rows is not None,  # problems without end come in a random order of their own
        seed=derived_seed(config.seed, "problems"),
        continuous=True,
    )
    held_out = _held_out(config)
    evaluation = Batching(batch_size=min(config.eval_problems, EVALUATION_BATCH), epochs=1)
    return MathSetting(
        config=config,
        facts=facts,
        training=ProblemSource(dataset=dataset, batching=training),
        held_out=ProblemSource(dataset=held_out, batching=evaluation),
    )


async def _problems(config: MathRlConfig, peers: Peers) -> DatasetSpec:
    """The problems to train on: a catalogue entry, or a dataset of the caller's own without what is held out.

    An entry that draws its problems at random takes a seed: the run's, unless the options name one.
    """
    if config.HasField("dataset"):
        spec = _shuffled(config)
        if config.eval_every:
            spec.operations.append(Operation(skip=Skip(count=config.eval_problems)))
        return spec
    options = dict(problem_options(config.problem_options))
    if "seed" in await peers.dataset.options(config.problems):
        options.setdefault("seed", str(config.seed % (1 << 63)))
    return DatasetSpec(catalogue=CatalogueSource(name=config.problems, options=options))


def _held_out(config: MathRlConfig) -> DatasetSpec:
    """The catalogue entry's test split, the same for every run; or the first problems of a dataset of the caller's own,
    shuffled, as many as an evaluation asks."""
    if config.HasField("dataset"):
        spec = _shuffled(config)
    else:
        options = problem_options(config.problem_options)
        spec = DatasetSpec(catalogue=CatalogueSource(name=config.problems, split=_TEST_SPLIT, options=options))
    spec.operations.append(Operation(take=Take(count=config.eval_problems)))
    return spec


def _shuffled(config: MathRlConfig) -> DatasetSpec:
    """The caller's dataset; in an order of the run's seed when some of it is to be held out."""
    spec = DatasetSpec()
    spec.CopyFrom(config.dataset)
    if config.eval_every:
        spec.operations.append(Operation(shuffle=Shuffle(seed=derived_seed(config.seed, "held out"))))
    return spec


def problem_options(text: str) -> Mapping[str, str]:
    """Options of a problem set, written "name=value,name=value". ValueError when they are not."""
    pairs = [item.partition("=") for item in text.split(",") if item.strip()]
    if not all(separator and name.strip() for name, separator, _ in pairs):
        raise ValueError(f"{text!r} is not of the form name=value,name=value")
    return {name.strip(): value.strip() for name, _, value in pairs}


def environment(config: MathRlConfig) -> EnvironmentSpec:
    """One question, one answer, graded as mathematics."""
    grader = GraderSpec(math=MathGrader(extraction=_EXTRACTIONS[config.extraction]))
    problem = ProblemEnvironment(grader=grader, format_coefficient=config.format_coefficient)
    return EnvironmentSpec(problem=problem)


async def ask_step(setting: MathSetting, peers: Peers, step: int) -> Asked:
    """The problems of a training step, ready to be answered."""
    config = setting.config
    problems = await peers.dataset.problems(setting.training, step - 1)
    seeds = group_seeds(config.seed, "episode", step, len(problems))
    return await ask(config, peers, problems, config.group_size, seeds, call=f"step/{step}")


async def ask(
    config: MathRlConfig, peers: Peers, problems: Sequence[Problem], group_size: int, seeds: Sequence[int], *, call: str
) -> Asked:
    """Begins the episodes of some problems and renders their prompts."""
    episodes = await peers.environment.begin(environment(config), problems, group_size, seeds, call=call)
    format = Format(model=config.base_model, renderer=config.renderer)
    prompts = await peers.renderer.prompts(episodes.conversations, format, episodes.stop_strings)
    return Asked(episodes=episodes, prompts=prompts)

"""What can be told of a configuration of math_rl before it runs."""

from collections.abc import Sequence

from tinsmith.orchestrator.v1 import MathRlConfig
from tinsmith.types.v1 import Conversation, Message
from tinsmith_server.orchestrator.configuration import Violation
from tinsmith_server.orchestrator.peers import Format, Peers
from tinsmith_server.orchestrator.recipes.math_setting import (
    environment,
    held_out_problems,
    problem_options,
    training_problems,
)

_GREETING = Conversation(messages=[Message(role="user", content="1 + 1")])


def check_math_rl(config: MathRlConfig) -> Sequence[Violation]:
    """What is wrong with values that keep the contract's rules."""
    try:
        problem_options(config.problem_options)
    except ValueError as error:
        return [("problem_options", str(error))]
    return []


async def probe_math_rl(config: MathRlConfig, peers: Peers) -> None:
    """Asks each service for as little as shows whether it knows what the configuration names.

    CallFailed with the service's own reason: BASE_MODEL_NOT_FOUND, CHECKPOINT_NOT_FOUND, DATASET_NOT_FOUND,
    ENVIRONMENT_NOT_FOUND, RENDERER_NOT_FOUND, ...
    """
    await peers.trainer.knows(config.base_model, config.load_checkpoint)
    await peers.sampler.knows(config.base_model)
    await peers.renderer.prompts([_GREETING], Format(model=config.base_model, renderer=config.renderer))
    await peers.dataset.problems(training_problems(config), 0)
    if config.eval_every:
        await peers.dataset.problems(held_out_problems(config), 0)
    await peers.environment.begin(environment(config), (), 1, (), call="probe")

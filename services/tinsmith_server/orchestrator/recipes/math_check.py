"""What can be told of a configuration of math_rl before it runs."""

from collections.abc import Sequence

from tinsmith.orchestrator.v1 import MathRlConfig
from tinsmith.types.v1 import Conversation, Message
from tinsmith_server.orchestrator.configuration import Violation, bad_config
from tinsmith_server.orchestrator.peers import Format, Peers
from tinsmith_server.orchestrator.recipes.math_setting import environment, open_setting, problem_options

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

    InvalidArgument with reason BAD_CONFIG when no problem is left; NotFound with reason BASE_MODEL_NOT_FOUND;
    CallFailed with the service's own reason: CHECKPOINT_NOT_FOUND, DATASET_NOT_FOUND, RENDERER_NOT_FOUND, ...
    """
    await peers.trainer.knows(config.base_model, config.load_checkpoint)
    await peers.sampler.knows(config.base_model)
    await peers.renderer.prompts([_GREETING], Format(model=config.base_model, renderer=config.renderer))
    setting = await open_setting(config, peers)
    if setting.facts.rows == 0:
        kept = f"; eval_problems={config.eval_problems} are kept for evaluation" if config.eval_every else ""
        raise bad_config("math_rl", [("dataset", f"leaves no problem to train on{kept}")])
    await peers.dataset.problems(setting.training, 0)
    if config.eval_every:
        await peers.dataset.problems(setting.held_out, 0)
    await peers.environment.begin(environment(config), (), 1, (), call="probe")

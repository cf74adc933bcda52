"""math_rl: reinforcement learning with verifiable rewards on mathematics.

Each step: P problems are asked, G answers to each are sampled from the present weights and graded; an answer is as good
as it is better than its group; the policy gradient of that moves the weights. While a step trains, the problems of the
next one are fetched and rendered. P problems, G answers to each, D data; `weights` are those of the last finished step.
"""

from functools import partial

from tinsmith.orchestrator.v1 import MathRlConfig
from tinsmith_server.orchestrator.active_run import ActiveRun, MadeModel
from tinsmith_server.orchestrator.numerics import group_advantages, is_constant
from tinsmith_server.orchestrator.peers import Adam, Peers
from tinsmith_server.orchestrator.recipes.ahead import Ahead
from tinsmith_server.orchestrator.recipes.assemble import assemble
from tinsmith_server.orchestrator.recipes.evaluation import evaluate
from tinsmith_server.orchestrator.recipes.math_setting import ask_step, fresh_model, open_setting
from tinsmith_server.orchestrator.recipes.metrics import step_metrics
from tinsmith_server.orchestrator.recipes.rollout import answer
from tinsmith_server.orchestrator.recipes.seeds import group_seeds
from tinsmith_server.orchestrator.recipes.stopwatch import Stopwatch
from tinsmith_server.orchestrator.recipes.transcripts import transcripts


async def math_rl(config: MathRlConfig, run: ActiveRun, peers: Peers) -> MadeModel:
    """Trains until `config.steps` steps are done, from the run's newest checkpoint or afresh."""
    adam = Adam(learning_rate=config.learning_rate, grad_clip_norm=config.grad_clip_norm)
    setting = await open_setting(config, peers)
    model, weights, steps_done = await run.open_model(fresh_model(config))
    async with Ahead(partial(ask_step, setting, peers)) as asking:
        for step in range(steps_done + 1, config.steps + 1):
            if config.eval_every and (step - 1) % config.eval_every == 0:
                await run.evaluated(step - 1, await evaluate(setting, peers, weights, step - 1))
            watch = Stopwatch()
            with watch.span("ask"):
                asked_P = await asking.take(step)
            with watch.span("sample"):
                seeds_P = group_seeds(config.seed, "sample", step, len(asked_P))
                rollout_PG = await answer(
                    peers,
                    asked_P,
                    weights,
                    seeds_P,
                    config.max_tokens,
                    config.temperature,
                    call=f"step/{step}",
                    watch=watch,
                )
            if step < config.steps:
                asking.start(step + 1)

            advantages_PG = group_advantages(rollout_PG.rewards_PG)
            dropped_P = is_constant(rollout_PG.rewards_PG) & config.remove_constant_groups
            data_D = assemble(rollout_PG, advantages_PG, ~dropped_P)

            saves = step == config.steps or bool(config.save_every and step % config.save_every == 0)
            with watch.span("train"):
                parts = [part.datums() for part in data_D.split(config.num_substeps)]
                update = await model.train(parts, config.loss, adam, save_as=f"{step:06d}" if saves else "")
            weights = update.weights
            metrics = step_metrics(config, step, rollout_PG, dropped_P, data_D, update, watch)
            kept = transcripts(rollout_PG, advantages_PG, config.logged_groups)
            await run.step_completed(step, metrics, kept, weights)
    if config.eval_every:
        await run.evaluated(config.steps, await evaluate(setting, peers, weights, config.steps))
    return setting.made_model

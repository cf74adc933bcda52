"""Evaluation of math_rl: held-out problems, one greedy answer each."""

from tinsmith_server.orchestrator.peers import Peers, Weights
from tinsmith_server.orchestrator.recipes.math_setting import MathSetting, ask
from tinsmith_server.orchestrator.recipes.metrics import Metrics, over_batches, rollout_metrics
from tinsmith_server.orchestrator.recipes.rollout import answer
from tinsmith_server.orchestrator.recipes.seeds import group_seeds
from tinsmith_server.orchestrator.recipes.stopwatch import Stopwatch


async def evaluate(setting: MathSetting, peers: Peers, weights: Weights, steps_done: int) -> Metrics:
    """`test/env/all/*` of the weights after so many steps."""
    config = setting.config
    found: list[Metrics] = []
    watch = Stopwatch()
    for batch in range(-(-config.eval_problems // setting.held_out.batching.batch_size)):
        problems = await peers.dataset.problems(setting.held_out, batch)
        if not problems:
            break
        call = f"evaluation/{steps_done}/{batch}"
        seeds = group_seeds(config.seed, "evaluation", batch, len(problems))
        asked = await ask(config, peers, problems, 1, seeds, call=call)
        rollout = await answer(peers, asked, weights, seeds, config.max_tokens, temperature=0.0, call=call, watch=watch)
        found.append(rollout_metrics(rollout))
    return {f"test/{name}": value for name, value in (over_batches(found) | watch.metrics()).items()}

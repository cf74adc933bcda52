"""Trains a small language model to add by reinforcement learning, then asks it a question.

tinsmith up &
python clients/python/examples/math_rl.py steps=20
"""

import sys

from tinsmith import Suite, watch_run
from tinsmith.orchestrator.v1 import GetRunRequest, Run, RunState, StartRunRequest
from tinsmith.renderer.v1 import RenderPromptsRequest
from tinsmith.sampler.v1 import ModelRef, SampleRequest, SamplingParams
from tinsmith.types.v1 import Conversation, Message


def train(suite: Suite, overrides: dict[str, str]) -> Run:
    """Runs the recipe math_rl to its end."""
    run = suite.orchestrator.StartRun(StartRunRequest(recipe="math_rl", overrides=overrides)).run
    for answer in watch_run(suite, run.run_id):
        for event in answer.events:
            if event.HasField("step_completed"):
                reward = event.step_completed.metrics["env/all/reward/total"]
                print(f"step {event.step}/{run.total_steps}: reward {reward:.3f}")
    run = suite.orchestrator.GetRun(GetRunRequest(run_id=run.run_id)).run
    if run.state != RunState.RUN_STATE_COMPLETED:
        raise SystemExit(f"run {run.run_id} ended as {RunState.Name(run.state)}: {run.error.message}")
    return run


def ask(suite: Suite, run: Run, question: str) -> str:
    """Puts one question to the model that a run has trained."""
    config = run.config.math_rl
    prompt = suite.renderer.RenderPrompts(
        RenderPromptsRequest(
            model=config.base_model,
            renderer=config.renderer,
            conversations=[Conversation(messages=[Message(role="user", content=question)])],
        )
    )
    answers = suite.sampler.Sample(
        SampleRequest(
            model=ModelRef(checkpoint_uri=run.sampler_uri),
            prompts=prompt.tokens,
            params=SamplingParams(max_tokens=config.max_tokens, temperature=0, stop=prompt.stop),
            return_text=True,
        )
    )
    return answers.texts[0].strip()


if __name__ == "__main__":
    with Suite.connect() as suite:
        run = train(suite, dict(argument.split("=", 1) for argument in sys.argv[1:]))
        print("What is 3 + 4?", ask(suite, run, "What is 3 + 4?"))

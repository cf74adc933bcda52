/**
 * Trains a small language model to add by reinforcement learning, then asks it a question.
 *
 *     tinsmith up &
 *     npm run example -- steps=20
 */
import { connect, type Suite } from "@tinsmith/client";
import { RunState, type Run } from "@tinsmith/client/orchestrator/v1";

/** Runs the recipe math_rl to its end. */
async function train(suite: Suite, overrides: Record<string, string>): Promise<Run> {
  const { run } = await suite.orchestrator.startRun({ recipe: "math_rl", overrides });
  for await (const { step, event } of suite.watchRun(run!.runId)) {
    if (event.case === "stepCompleted") {
      const reward = event.value.metrics["env/all/reward/total"];
      console.log(`step ${step}/${run!.totalSteps}: reward ${reward?.toFixed(3)}`);
    }
  }
  const { run: ended } = await suite.orchestrator.getRun({ runId: run!.runId });
  if (ended!.state !== RunState.COMPLETED) {
    throw new Error(`run ${ended!.runId} ended as ${RunState[ended!.state]}: ${ended!.error?.message}`);
  }
  return ended!;
}

/** Puts one question to the model that a run has trained. */
async function ask(suite: Suite, run: Run, question: string): Promise<string> {
  const config = run.config!.recipe;
  if (config.case !== "mathRl") throw new Error(`run ${run.runId} is of the recipe ${run.recipe}`);
  const { baseModel, renderer, maxTokens } = config.value;
  const conversations = [{ messages: [{ role: "user", content: question }] }];
  const { tokens, stop } = await suite.renderer.renderPrompts({ model: baseModel!, renderer: renderer!, conversations });
  const { texts } = await suite.sampler.sample({
    model: { model: { case: "checkpointUri", value: run.samplerUri } },
    prompts: tokens!,
    params: { maxTokens: maxTokens!, temperature: 0, stop: stop! },
    returnText: true,
  });
  return texts[0]!.trim();
}

const suite = connect();
const overrides = Object.fromEntries(process.argv.slice(2).map((argument) => argument.split("=", 2)));
const run = await train(suite, overrides);
console.log(`What is 3 + 4? ${await ask(suite, run, "What is 3 + 4?")}`);
suite.close();

import assert from "node:assert/strict";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { ConnectError } from "@connectrpc/connect";
import { Code, connect, DEFAULT_TIMEOUT_MS, TinsmithError } from "@tinsmith/client";

import { connectTo, failureOf, serve, untilCancelled } from "./fakes.js";

/** Is unavailable for the first calls, then echoes the display name; notes ids and time left. */
function shaky(failures: number) {
  const seen = { ids: [] as string[], timeLeftMs: 0 };
  const startRun = (request: { requestId: string; displayName: string }, context: { timeoutMs(): number | undefined }) => {
    seen.ids.push(request.requestId);
    seen.timeLeftMs = context.timeoutMs() ?? Infinity;
    if (seen.ids.length <= failures) throw new ConnectError("restarting", Code.Unavailable);
    return { run: { displayName: request.displayName } };
  };
  return { seen, startRun };
}

test("an unavailable service is tried four times", async (context) => {
  for (const failures of [3, 4]) {
    const { seen, startRun } = shaky(failures);
    const { address } = await serve(context, { startRun });
    const call = connectTo(context, address).orchestrator.startRun({});
    if (failures === 3) await call;
    else assert.equal(((await failureOf(call)) as TinsmithError).code, Code.Unavailable);
    assert.equal(seen.ids.length, 4);
  }
});

test("the API key goes with every call, where there is one", async (context) => {
  const keys: (string | null)[] = [];
  const startRun = (_: unknown, { requestHeader }: { requestHeader: Headers }) => {
    keys.push(requestHeader.get("authorization"));
    return {};
  };
  const { address } = await serve(context, { startRun });
  for (const apiKey of ["secret", ""]) {
    const suite = connect({ addresses: { orchestrator: address }, apiKey });
    await suite.orchestrator.startRun({}).finally(() => suite.close());
  }
  assert.deepEqual(keys, ["Bearer secret", null]);
});

test("retries of one call share a request id and other calls do not", async (context) => {
  const { seen, startRun } = shaky(2);
  const { address } = await serve(context, { startRun });
  const { orchestrator } = connectTo(context, address);
  const request = { displayName: "mine", requestId: "" };
  for (let i = 0; i < 2; i++) assert.equal((await orchestrator.startRun(request)).run?.displayName, "mine");
  const [first, , third, other] = seen.ids;
  assert.equal(seen.ids.length, 4);
  assert(first && first === third && first !== other && request.requestId === "");
  await orchestrator.startRun({ requestId: "given" });
  assert.equal(seen.ids[4], "given");
});

test("a unary call without deadline gets the default", async (context) => {
  const { seen, startRun } = shaky(0);
  const { address } = await serve(context, { startRun });
  await connectTo(context, address).orchestrator.startRun({});
  assert(seen.timeLeftMs <= DEFAULT_TIMEOUT_MS && seen.timeLeftMs > DEFAULT_TIMEOUT_MS - 60_000);
});

test("16 MiB pass both ways", async (context) => {
  const { address } = await serve(context, { startRun: shaky(0).startRun });
  const displayName = "x".repeat(16 * 1024 * 1024);
  const answer = await connectTo(context, address).orchestrator.startRun({ displayName });
  assert(answer.run?.displayName === displayName);
});

test("a service on a unix socket is reached", async (context) => {
  const { address } = await serve(
    context,
    { startRun: shaky(0).startRun },
    join(mkdtempSync(join(tmpdir(), "tinsmith-")), "socket"),
  );
  const answer = await connectTo(context, address).orchestrator.startRun({ displayName: "mine" });
  assert.equal(answer.run?.displayName, "mine");
});

test("waiting for a service that is away ends with the deadline", async (context) => {
  const fake = await serve(context, {});
  await fake.die();
  const begin = Date.now();
  const { orchestrator } = connectTo(context, fake.address, true);
  const failure = await failureOf(orchestrator.listRecipes({}, { timeoutMs: 2500 }));
  assert(failure instanceof TinsmithError && Date.now() - begin > 1000);
});

test("a service that comes back in time is waited for", async (context) => {
  const fake = await serve(context, {});
  await fake.die();
  const port = Number(fake.address.split(":")[1]);
  setTimeout(() => void serve(context, { listRecipes: () => ({ recipes: [{ name: "math_rl" }] }) }, port), 1500);
  const { recipes } = await connectTo(context, fake.address, true).orchestrator.listRecipes({}, { timeoutMs: 20_000 });
  assert.equal(recipes[0]?.name, "math_rl");
});

test("a server that stops while the connection is idle does not end the program", async (context) => {
  const fake = await serve(context, { listRecipes: () => ({}) });
  const { orchestrator } = connectTo(context, fake.address);
  await orchestrator.listRecipes({});
  await fake.die();
  await serve(context, { listRecipes: () => ({ recipes: [{ name: "math_rl" }] }) }, Number(fake.address.split(":")[1]));
  assert.equal((await orchestrator.listRecipes({})).recipes[0]?.name, "math_rl");
});

test("a lost connection is UNAVAILABLE", async (context) => {
  const fake = await serve(context, { getRun: untilCancelled });
  setTimeout(() => void fake.die(), 300);
  const failure = await failureOf(connectTo(context, fake.address).orchestrator.getRun({ runId: "run" }));
  assert(failure instanceof TinsmithError);
  assert.equal(failure.code, Code.Unavailable);
});

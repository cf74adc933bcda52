import assert from "node:assert/strict";
import { test } from "node:test";

import { ConnectError } from "@connectrpc/connect";
import { Code, TinsmithError, type Suite } from "@tinsmith/client";

import { connectTo, failureOf, serve } from "./fakes.js";

const LAST_EVENT = 6n;

/** Streams events 1 to 6 one by one; the first stream breaks down after three of them. */
function journal(breakDown?: () => Promise<void>) {
  const asked: bigint[] = [];
  const watchRun = async function* ({ afterSeq }: { afterSeq: bigint }) {
    asked.push(afterSeq);
    for (let seq = afterSeq + 1n; seq <= LAST_EVENT; seq++) {
      if (asked.length === 1 && seq === afterSeq + 4n) await breakDown?.();
      yield { events: [{ seq }], seenSeq: seq };
    }
  };
  return { asked, watchRun };
}

async function numbers(suite: Suite, afterSeq = 0n, into: bigint[] = []): Promise<bigint[]> {
  for await (const event of suite.watchRun("run", { afterSeq })) into.push(event.seq);
  return into;
}

test("a broken watch goes on behind the last event", async (context) => {
  const { asked, watchRun } = journal(() => Promise.reject(new ConnectError("gone", Code.Unavailable)));
  const { address } = await serve(context, { watchRun });
  assert.deepEqual(await numbers(connectTo(context, address)), [1n, 2n, 3n, 4n, 5n, 6n]);
  assert.deepEqual(asked, [0n, 3n]);
});

test("a watch survives the death of the server", async (context) => {
  const { asked, watchRun } = journal(async () => {
    await fake.die();
    await serve(context, { watchRun }, Number(fake.address.split(":")[1]));
    throw new ConnectError("dead", Code.Unavailable);
  });
  const fake = await serve(context, { watchRun });
  assert.deepEqual(await numbers(connectTo(context, fake.address), 1n), [2n, 3n, 4n, 5n, 6n]);
  assert.equal(asked.length, 2);
});

test("other failures end the watch", async (context) => {
  const { watchRun } = journal(() => Promise.reject(new ConnectError("corrupt", Code.DataLoss)));
  const { address } = await serve(context, { watchRun });
  const seen: bigint[] = [];
  const failure = await failureOf(numbers(connectTo(context, address), 0n, seen));
  assert(failure instanceof TinsmithError);
  assert.equal(failure.code, Code.DataLoss);
  assert.deepEqual(seen, [1n, 2n, 3n]);
});

test("leaving the loop ends the call", async (context) => {
  let leave = () => {};
  const left = new Promise<void>((resolve) => (leave = resolve));
  const { address } = await serve(context, {
    async *watchRun(_, { signal }) {
      signal.addEventListener("abort", leave);
      yield { events: [{ seq: 1n }], seenSeq: 1n };
      await left;
    },
  });
  for await (const event of connectTo(context, address).watchRun("run")) {
    assert.equal(event.seq, 1n);
    break;
  }
  await left;
});

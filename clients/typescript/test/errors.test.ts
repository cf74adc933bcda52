import assert from "node:assert/strict";
import { test } from "node:test";

import { ConnectError } from "@connectrpc/connect";
import { Code, TinsmithError } from "@tinsmith/client";

import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { connectTo, failureOf, serve, untilCancelled } from "./fakes.js";

test("a failed call carries reason, metadata, violations and retry delay", async (context) => {
  const { address } = await serve(context, {
    startRun() {
      throw new ConnectError("stepz is no field of math_rl: did you mean steps?", Code.InvalidArgument, undefined, [
        { desc: ErrorInfoSchema, value: { reason: "BAD_CONFIG", domain: "tinsmith", metadata: { recipe: "math_rl" } } },
        { desc: BadRequestSchema, value: { fieldViolations: [{ field: "stepz", description: "unknown" }] } },
        { desc: RetryInfoSchema, value: { retryDelay: { seconds: 1n, nanos: 500_000_000 } } },
      ]);
    },
  });
  const failure = await failureOf(connectTo(context, address).orchestrator.startRun({ recipe: "math_rl" }));
  assert(failure instanceof TinsmithError);
  assert.equal(failure.code, Code.InvalidArgument);
  assert.equal(failure.reason, "BAD_CONFIG");
  assert.deepEqual(failure.metadata, { recipe: "math_rl" });
  assert.deepEqual(failure.violations, [{ field: "stepz", description: "unknown" }]);
  assert.equal(failure.retryAfterMs, 1500);
  assert.equal(failure.message, "stepz is no field of math_rl: did you mean steps? [BAD_CONFIG]");
});

test("a failure without details keeps its code", async (context) => {
  const { address } = await serve(context, {});
  const failure = await failureOf(connectTo(context, address).orchestrator.listRecipes({}));
  assert(failure instanceof TinsmithError);
  assert.equal(failure.code, Code.Unimplemented);
  assert.equal(failure.reason, "");
  assert.equal(failure.retryAfterMs, undefined);
});

test("streams fail with the same type", async (context) => {
  const { address } = await serve(context, {
    async *watchRun() {
      yield {};
      throw new ConnectError("no such run", Code.NotFound, undefined, [
        { desc: ErrorInfoSchema, value: { reason: "RUN_NOT_FOUND" } },
      ]);
    },
  });
  const failure = await failureOf(connectTo(context, address).watchRun("run").next());
  assert(failure instanceof TinsmithError);
  assert.equal(failure.reason, "RUN_NOT_FOUND");
});

test("the caller's own cancellation stays a cancellation", async (context) => {
  const { address } = await serve(context, { getRun: untilCancelled });
  const signal = AbortSignal.timeout(100);
  const { orchestrator } = connectTo(context, address);
  const failure = await failureOf(orchestrator.getRun({ runId: "run" }, { signal }));
  assert(failure instanceof TinsmithError);
  assert.equal(failure.code, Code.Canceled);
});

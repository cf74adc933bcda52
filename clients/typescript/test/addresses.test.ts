import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import { connect, findAddresses } from "@tinsmith/client";

const STATE = {
  services: {
    trainer: { address: "127.0.0.1:7001", pid: 1 },
    sampler: { address: "unix:/run/sampler.sock", pid: 2 },
    grader: { address: "127.0.0.1:7004", pid: 3 },
    gateway: { address: "127.0.0.1:8080", pid: 4 },
  },
};

function homeWith(state?: string): string {
  const home = mkdtempSync(join(tmpdir(), "tinsmith-"));
  if (state !== undefined) writeFileSync(join(home, "suite.json"), state);
  return home;
}

function setVariable(context: TestContext, name: string, value: string): void {
  const before = process.env[name];
  process.env[name] = value;
  context.after(() => {
    if (before === undefined) delete process.env[name];
    else process.env[name] = before;
  });
}

test("given addresses come before the environment, the home and the defaults", (context) => {
  setVariable(context, "TINSMITH_TRAINER_ADDRESS", "trainer.example:1");
  setVariable(context, "TINSMITH_GRADER_ADDRESS", "grader.example:1");
  assert.deepEqual(findAddresses({ grader: "mine:1" }, homeWith(JSON.stringify(STATE))), {
    grader: "mine:1",
    trainer: "trainer.example:1",
    sampler: "unix:/run/sampler.sock",
    dataset: "127.0.0.1:50053",
    environment: "127.0.0.1:50055",
    orchestrator: "127.0.0.1:50056",
  });
});

test("the home of the environment is read, and may be empty", (context) => {
  setVariable(context, "TINSMITH_HOME", homeWith(JSON.stringify(STATE)));
  assert.equal(findAddresses().trainer, "127.0.0.1:7001");
  setVariable(context, "TINSMITH_HOME", homeWith());
  assert.equal(findAddresses().trainer, "127.0.0.1:50051");
});

test("a named home without a suite says how to start one", () => {
  const home = homeWith();
  assert.throws(() => connect({ home }), { message: new RegExp(`tinsmith up --home ${home}`) });
});

test("a damaged state names its file", () => {
  const home = homeWith('{"services": [');
  assert.throws(() => connect({ home }), { message: new RegExp(join(home, "suite.json")) });
});

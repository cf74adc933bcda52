import { setTimeout as pause } from "node:timers/promises";

import { Code, type Client } from "@connectrpc/connect";

import { TinsmithError } from "./errors.js";
import type { OrchestratorService, RunEvent } from "./v1/orchestrator.js";

const PATIENCE_MS = 60_000;
const PAUSE_MS = 500;

/** Where a watch begins and what ends it early. */
export interface WatchOptions {
  /** Begin behind the event of this number. */
  afterSeq?: bigint;
  /** Ends the watch. */
  signal?: AbortSignal;
}

/**
 * Yields events until the run has ended; leaving the loop ends the call. Throws when the orchestrator stays away for a
 * minute, or for any other failure.
 */
export async function* watchRun(
  orchestrator: Client<typeof OrchestratorService>,
  runId: string,
  { afterSeq = 0n, signal: given }: WatchOptions,
): AsyncGenerator<RunEvent, void> {
  const left = new AbortController();
  const signal = given ? AbortSignal.any([given, left.signal]) : left.signal;
  try {
    for (let lastSign = Date.now(); ; ) {
      try {
        for await (const answer of orchestrator.watchRun({ runId, afterSeq }, { signal })) {
          lastSign = Date.now();
          for (const event of answer.events) {
            afterSeq = event.seq;
            yield event;
          }
          if (answer.seenSeq > afterSeq) afterSeq = answer.seenSeq;
        }
        return;
      } catch (error) {
        const isAway = error instanceof TinsmithError && error.code === Code.Unavailable;
        if (!isAway || Date.now() - lastSign > PATIENCE_MS) throw error;
      }
      await pause(PAUSE_MS, undefined, { signal });
    }
  } finally {
    left.abort();
  }
}

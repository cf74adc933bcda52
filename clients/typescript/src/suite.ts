import { createClient, type Client } from "@connectrpc/connect";
import type { Http2SessionManager } from "@connectrpc/connect-node";

import { findAddresses, type Addresses } from "./addresses.js";
import { openSession, TinsmithTransport, type CallOptions } from "./transport.js";
import { DatasetService } from "./v1/dataset.js";
import { EnvironmentService } from "./v1/environment.js";
import { GraderService } from "./v1/grader.js";
import { NumericsService } from "./v1/numerics.js";
import { OrchestratorService, type RunEvent } from "./v1/orchestrator.js";
import { RendererService } from "./v1/renderer.js";
import { SamplerService } from "./v1/sampler.js";
import { CheckpointService, TrainerService } from "./v1/trainer.js";
import { watchRun, type WatchOptions } from "./watch.js";

/** How to reach a suite. Without options: the one that runs on this machine. */
export interface Options extends CallOptions {
  /** State folder of the suite, as in `tinsmith up --home`; see findAddresses. */
  home?: string;
  /** Addresses of services that run elsewhere. */
  addresses?: Partial<Addresses>;
}

/**
 * A client of every service.
 *
 * Failed calls throw TinsmithError; streams are async iterables, which a `signal` ends early. Unary calls without `timeoutMs` have a deadline of ten
 * minutes, streams have none. A call that fails with UNAVAILABLE is tried up to four times.
 */
export class Suite {
  readonly trainer: Client<typeof TrainerService>;
  readonly checkpoints: Client<typeof CheckpointService>;
  readonly sampler: Client<typeof SamplerService>;
  readonly datasets: Client<typeof DatasetService>;
  readonly renderer: Client<typeof RendererService>;
  readonly grader: Client<typeof GraderService>;
  readonly environment: Client<typeof EnvironmentService>;
  readonly orchestrator: Client<typeof OrchestratorService>;
  readonly numerics: Client<typeof NumericsService>;
  readonly #sessions: Http2SessionManager[] = [];

  constructor(
    readonly addresses: Addresses,
    options: CallOptions = {},
  ) {
    const open = (address: string) => {
      const session = openSession(address);
      this.#sessions.push(session);
      return new TinsmithTransport(session, options);
    };
    const [trainer, dataset, orchestrator] = [
      open(addresses.trainer),
      open(addresses.dataset),
      open(addresses.orchestrator),
    ];
    this.trainer = createClient(TrainerService, trainer);
    this.checkpoints = createClient(CheckpointService, trainer);
    this.datasets = createClient(DatasetService, dataset);
    this.renderer = createClient(RendererService, dataset);
    this.sampler = createClient(SamplerService, open(addresses.sampler));
    this.grader = createClient(GraderService, open(addresses.grader));
    this.environment = createClient(EnvironmentService, open(addresses.environment));
    this.orchestrator = createClient(OrchestratorService, orchestrator);
    this.numerics = createClient(NumericsService, orchestrator);
  }

  /** The events of a run, each once and in order, until the run has ended; a broken stream is resumed where it broke. */
  watchRun(runId: string, options: WatchOptions = {}): AsyncGenerator<RunEvent, void> {
    return watchRun(this.orchestrator, runId, options);
  }

  /** Ends every connection and the calls on it. */
  close(): void {
    for (const session of this.#sessions) session.abort();
  }
}

/** A client of the suite; connections open with the first call. Without `apiKey` it is TINSMITH_API_KEY. */
export function connect({ home, addresses, ...options }: Options = {}): Suite {
  const apiKey = options.apiKey ?? process.env.TINSMITH_API_KEY ?? "";
  return new Suite(findAddresses(addresses, home), { ...options, apiKey });
}

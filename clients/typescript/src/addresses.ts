import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** Where the processes of a suite listen: `host:port` or `unix:path`. */
export interface Addresses {
  trainer: string;
  sampler: string;
  /** Serves DatasetService and RendererService. */
  dataset: string;
  grader: string;
  environment: string;
  orchestrator: string;
}

const DEFAULTS: Addresses = {
  trainer: "127.0.0.1:50051",
  sampler: "127.0.0.1:50052",
  dataset: "127.0.0.1:50053",
  grader: "127.0.0.1:50054",
  environment: "127.0.0.1:50055",
  orchestrator: "127.0.0.1:50056",
};

/**
 * Completes the given addresses: from the environment (TINSMITH_TRAINER_ADDRESS and so on), then from the suite that
 * `tinsmith up` started in `home`, then with the default ports.
 *
 * Without `home` it is $TINSMITH_HOME, or ~/.tinsmith; only a home that was named must hold a suite.
 */
export function findAddresses(given: Partial<Addresses> = {}, home?: string): Addresses {
  const ofHome = addressesOfHome(home);
  const addresses = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS) as (keyof Addresses)[]) {
    const ofEnvironment = process.env[`TINSMITH_${name.toUpperCase()}_ADDRESS`];
    addresses[name] = given[name] || ofEnvironment || ofHome[name]?.address || DEFAULTS[name];
  }
  return addresses;
}

/** Reads suite.json, in which `tinsmith up` keeps the state of its processes. */
function addressesOfHome(home: string | undefined): Record<string, { address: string } | undefined> {
  const folder = home ?? process.env["TINSMITH_HOME"] ?? join(homedir(), ".tinsmith");
  const file = join(folder, "suite.json");
  if (!existsSync(file)) {
    if (home === undefined) return {};
    throw new Error(`no suite has run in ${home}: start one with \`tinsmith up --home ${home}\``);
  }
  try {
    return JSON.parse(readFileSync(file, "utf8")).services;
  } catch (cause) {
    throw new Error(`${file} is not the state of a suite: ${(cause as Error).message}`, { cause });
  }
}

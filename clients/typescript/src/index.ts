/**
 * Drives a Tinsmith suite: LLM post-training as gRPC services.
 *
 *     const suite = connect();
 *     const { run } = await suite.orchestrator.startRun({ recipe: "math_rl" });
 *     for await (const event of suite.watchRun(run!.runId)) { ... }
 *
 * Messages and enums of each area are at `@tinsmith/client/<area>/v1`.
 */
export { Code } from "@connectrpc/connect";
export { findAddresses, type Addresses } from "./addresses.js";
export { TinsmithError, type FieldViolation } from "./errors.js";
export { connect, Suite, type Options } from "./suite.js";
export { ragged, rows, tensor, values, type Element } from "./tensors.js";
export { DEFAULT_TIMEOUT_MS, MAX_MESSAGE_BYTES } from "./transport.js";

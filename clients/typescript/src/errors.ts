import { Code, ConnectError } from "@connectrpc/connect";

import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** What is wrong with one field of a request. */
export interface FieldViolation {
  /** Path of the field, for example `loss.ppo.clip_low`. */
  field: string;
  description: string;
}

/**
 * A failed call.
 *
 * `code` says what kind of failure it is, `reason` says which, as an upper-case code that programs may rely on; the
 * message is for people.
 */
export class TinsmithError extends Error {
  override readonly name = "TinsmithError";
  readonly code: Code;
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly violations: readonly FieldViolation[];
  /** Time after which a retry may help; undefined when the server does not say so. */
  readonly retryAfterMs: number | undefined;

  constructor(code: Code, cause: ConnectError) {
    const [info] = cause.findDetails(ErrorInfoSchema);
    const [retry] = cause.findDetails(RetryInfoSchema);
    super(`${cause.rawMessage} [${info?.reason || Code[code]}]`, { cause });
    this.code = code;
    this.reason = info?.reason ?? "";
    this.metadata = info?.metadata ?? {};
    this.violations = cause
      .findDetails(BadRequestSchema)
      .flatMap((request) => request.fieldViolations.map(({ field, description }) => ({ field, description })));
    const delay = retry?.retryDelay;
    this.retryAfterMs = delay && Number(delay.seconds) * 1e3 + delay.nanos / 1e6;
  }
}

/** The failure of a call; `signal` is the caller's own, to tell its cancellation from a lost connection. */
export function errorOf(failure: unknown, signal: AbortSignal | undefined): TinsmithError {
  if (failure instanceof TinsmithError) return failure;
  const cause = ConnectError.from(failure);
  return new TinsmithError(isLostConnection(cause, signal) ? Code.Unavailable : cause.code, cause);
}

/**
 * HTTP/2 reports a connection that broke as a cancelled or refused stream or as an error of the socket; gRPC calls it
 * UNAVAILABLE.
 */
function isLostConnection(error: ConnectError, signal: AbortSignal | undefined): boolean {
  if (error.details.length > 0 || signal?.aborted) return false;
  if (error.rawMessage.includes("NGHTTP2_REFUSED_STREAM")) return true;
  return error.code === Code.Canceled || (error.code === Code.Aborted && error.cause instanceof Error);
}

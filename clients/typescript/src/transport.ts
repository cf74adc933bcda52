import { randomUUID } from "node:crypto";
import type { ClientHttp2Session, ClientHttp2Stream } from "node:http2";
import { connect as connectSocket } from "node:net";
import { setTimeout as pause } from "node:timers/promises";

import type { DescMessage, DescMethodUnary, DescMethodStreaming, MessageInitShape } from "@bufbuild/protobuf";
import {
  Code,
  type ContextValues,
  type Interceptor,
  type StreamResponse,
  type Transport,
  type UnaryResponse,
} from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { errorOf } from "./errors.js";

/** Largest message in each direction; the servers' default too. */
export const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;

/** Deadline of a unary call that names none: training calls may queue. */
export const DEFAULT_TIMEOUT_MS = 600_000;

type Header = Parameters<Transport["unary"]>[3];

const MAX_ATTEMPTS = 4;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1_000;

/** The HTTP/2 connection to one process; it opens with the first call and reopens when it breaks. */
export function openSession(address: string): Http2SessionManager {
  const keepalive = { pingIntervalMs: 30_000, pingTimeoutMs: 15_000 };
  if (address.startsWith("unix:")) {
    const path = address.slice("unix:".length);
    return new SessionManager("http://localhost", keepalive, { createConnection: () => connectSocket(path) });
  }
  return new SessionManager(`http://${address.replace(/^dns:\/\/\//, "")}`, keepalive);
}

/**
 * When a server says good-bye to an idle connection, the library destroys it with an error that nobody listens to any
 * more, and Node.js would end the program. The error says nothing: the next call opens another connection.
 */
class SessionManager extends Http2SessionManager {
  readonly #guarded = new WeakSet<ClientHttp2Session>();

  override async request(...call: Parameters<Http2SessionManager["request"]>): Promise<ClientHttp2Stream> {
    const stream = await super.request(...call);
    const session = stream.session as ClientHttp2Session | undefined;
    if (session && !this.#guarded.has(session)) {
      this.#guarded.add(session);
      session.on("error", () => {});
    }
    return stream;
  }
}

/** What holds for every call of a transport. */
export interface CallOptions {
  /** Goes with every call; none where the services ask for none. */
  apiKey?: string;
  /** Wait for a service that is away, until the call's deadline, instead of failing after four tries. */
  waitForReady?: boolean;
}

/** gRPC over a session, with deadlines, retries and typed errors. */
export class TinsmithTransport implements Transport {
  readonly #inner: Transport;
  readonly #waitForReady: boolean;

  constructor(session: Http2SessionManager, { apiKey = "", waitForReady = false }: CallOptions = {}) {
    this.#inner = createGrpcTransport({
      interceptors: apiKey ? [bearer(apiKey)] : [],
      baseUrl: session.authority,
      sessionManager: session,
      readMaxBytes: MAX_MESSAGE_BYTES,
      writeMaxBytes: MAX_MESSAGE_BYTES,
    });
    this.#waitForReady = waitForReady;
  }

  /**
   * Retries are safe for every call: reads have no effect, and writes carry a request_id by which a repeat is known or
   * change nothing when they are repeated.
   */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: Header,
    input: MessageInitShape<I>,
    context?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    const request = identified(method, input);
    const deadline = Date.now() + (timeoutMs ?? DEFAULT_TIMEOUT_MS);
    for (let attempt = 1, pauseMs = FIRST_PAUSE_MS; ; attempt++, pauseMs = Math.min(4 * pauseMs, LONGEST_PAUSE_MS)) {
      const leftMs = Math.max(deadline - Date.now(), 1);
      try {
        return await this.#inner.unary(method, signal, leftMs, header, request, context);
      } catch (failure) {
        const error = errorOf(failure, signal);
        const isLast = attempt >= MAX_ATTEMPTS && !this.#waitForReady;
        if (error.code !== Code.Unavailable || isLast || Date.now() + pauseMs >= deadline) throw error;
      }
      await pause(pauseMs * (0.8 + 0.4 * Math.random()));
    }
  }

  /** The call ends with its last answer or by `signal`: the library does not say when a reader leaves the loop. */
  async stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: Header,
    input: AsyncIterable<MessageInitShape<I>>,
    context?: ContextValues,
  ): Promise<StreamResponse<I, O>> {
    try {
      const answer = await this.#inner.stream(method, signal, timeoutMs, header, input, context);
      return { ...answer, message: typed(answer.message, signal) };
    } catch (failure) {
      throw errorOf(failure, signal);
    }
  }
}

function bearer(apiKey: string): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${apiKey}`);
    return next(request);
  };
}

/** The request with a request_id of its own where it has room for one and the caller gave none. */
function identified<I extends DescMessage>(method: DescMethodUnary<I>, input: MessageInitShape<I>): MessageInitShape<I> {
  const takesId = "requestId" in method.input.field;
  return takesId && !("requestId" in input && input.requestId) ? { ...input, requestId: randomUUID() } : input;
}

async function* typed<T>(messages: AsyncIterable<T>, signal: AbortSignal | undefined): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (failure) {
    throw errorOf(failure, signal);
  }
}

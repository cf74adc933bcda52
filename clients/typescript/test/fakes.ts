/** Real HTTP/2 servers on any port, with an orchestrator of the test's own. */
import { createServer, type Http2Server, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

import type { ServiceImpl } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { connect, type Suite } from "@tinsmith/client";
import { OrchestratorService } from "@tinsmith/client/orchestrator/v1";

/** A server that can be torn down in the middle of its streams. */
export interface Fake {
  address: string;
  /** Cuts every connection and stops listening, as the death of the process would. */
  die(): Promise<void>;
}

export async function serve(
  context: TestContext,
  orchestrator: Partial<ServiceImpl<typeof OrchestratorService>>,
  port: number | string = 0,
): Promise<Fake> {
  const routes = connectNodeAdapter({ routes: (router) => router.service(OrchestratorService, orchestrator) });
  const server: Http2Server = createServer(routes);
  const sessions = new Set<ServerHttp2Session>();
  server.on("session", (session) => {
    sessions.add(session);
    session.on("close", () => sessions.delete(session));
  });
  await new Promise<void>((resolve) => server.listen(typeof port === "string" ? port : { port, host: "127.0.0.1" }, resolve));
  const die = () => {
    for (const session of sessions) session.destroy();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  };
  context.after(() => die());
  return { address: typeof port === "string" ? `unix:${port}` : `127.0.0.1:${(server.address() as AddressInfo).port}`, die };
}

export function connectTo(context: TestContext, address: string, waitForReady = false): Suite {
  const suite = connect({ addresses: { orchestrator: address }, waitForReady });
  context.after(() => suite.close());
  return suite;
}

/** A call that ends only when its caller leaves; a promise that never ends would hold the process until the deadline. */
export function untilCancelled(_: unknown, { signal }: { signal: AbortSignal }): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
}

/** What a promise is rejected with. */
export async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => new Error("nothing was thrown"),
    (failure: unknown) => failure,
  );
}

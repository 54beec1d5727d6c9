/** The destination's half behind HTTP: what a paired site may ask, and nothing more. */
import { Type } from "typebox";
import type { Incoming } from "../../approaches/container-level/incoming.ts";
import { Need } from "../../approaches/container-level/protocol.ts";
import type { PeerApp } from "./peer-server.ts";
import { MigrationId } from "./schema.ts";

const params = Type.Object({ id: MigrationId }, { additionalProperties: false });
type ById = { Params: { id: string } };

export function registerPeerRoutes(app: PeerApp, incoming: Incoming): void {
  const peerOf = (request: { peer: string | undefined }) => request.peer ?? ""; // the server lets nobody through without one
  app.post<{ Body: Need }>("/peer/check", { schema: { body: Need } }, (request) =>
    incoming.check(request.body, AbortSignal.timeout(120_000)),
  );
  app.put<ById & { Body: Need }>("/peer/migrations/:id", { schema: { params, body: Need } }, (request) =>
    incoming.reserve(request.params.id, peerOf(request), request.body),
  );
  app.get<ById>("/peer/migrations/:id", { schema: { params } }, (request) => ({
    state: incoming.state(request.params.id, peerOf(request)),
  }));
  const actions = { image: "loadImage", create: "create", arm: "arm", restore: "restore", commit: "commit" } as const;
  for (const [name, action] of Object.entries(actions)) {
    app.post<ById>(`/peer/migrations/:id/${name}`, { schema: { params } }, async (request) => {
      await incoming[action](request.params.id, peerOf(request));
      return {};
    });
  }
  app.delete<ById>("/peer/migrations/:id", { schema: { params } }, async (request) => {
    await incoming.destroy(request.params.id, peerOf(request));
    return {};
  });
}

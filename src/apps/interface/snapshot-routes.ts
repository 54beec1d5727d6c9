/** Snapshots of a node's pods behind HTTP: what the other parts of its own site may ask. */
import type { FastifyReply } from "fastify";
import { Type } from "typebox";
import type { Snapshots } from "../../approaches/orchestrator-level/node/snapshots.ts";
import { closed } from "../../protocol/forms.ts";
import { KnownSnapshot, ReplaySnapshot, RescueSnapshot, SnapshotPath, TakeSnapshot } from "../../protocol/snapshot.ts";
import type { PeerApp } from "../../server/peer-server.ts";

const params = Type.Object({ id: Type.String({ pattern: "^[0-9a-f]{12}$" }) }, closed);
const Place = Type.Object({ path: SnapshotPath }, closed);
type ById = { Params: { id: string } };

export function registerSnapshotRoutes(app: PeerApp, snapshots: Pick<Snapshots, "take" | "rescue" | "remove" | "find" | "replay">): void {
  app.post<{ Body: { path: string } }>("/node/snapshots/find", { schema: { body: Place } }, async (request) => {
    const snapshot = await snapshots.find(request.body.path);
    return snapshot ? { snapshot } : {};
  });
  app.post<ById & { Body: TakeSnapshot }>("/node/snapshots/:id/take", { schema: { params, body: TakeSnapshot } }, (request, reply) =>
    snapshots.take(request.params.id, request.body, hangUp(reply)),
  );
  app.post<ById & { Body: RescueSnapshot }>("/node/snapshots/:id/rescue", { schema: { params, body: RescueSnapshot } }, (request, reply) =>
    snapshots.rescue(request.params.id, request.body, hangUp(reply)),
  );
  app.post<{ Body: KnownSnapshot }>("/node/snapshots/remove", { schema: { body: KnownSnapshot } }, async (request) => {
    await snapshots.remove(request.body);
    return {};
  });
  app.post<ById & { Body: ReplaySnapshot }>("/node/snapshots/:id/replay", { schema: { params, body: ReplaySnapshot } }, (request, reply) =>
    snapshots.replay(request.params.id, request.body, hangUp(reply)),
  );
}

/** Aborts when whoever asked has gone: a request that hangs up gives up what it asked for. */
function hangUp(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  reply.raw.once("close", () => reply.raw.writableEnded || controller.abort());
  return controller.signal;
}

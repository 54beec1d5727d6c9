/** Snapshots of a node's pods behind HTTP: what the other parts of its own site may ask. */
import { Type } from "typebox";
import type { Snapshots } from "../../approaches/orchestrator-level/node/snapshots.ts";
import type { Places } from "../../approaches/orchestrator-level/node/places.ts";
import { UmsError } from "../../errors.ts";
import { closed } from "../../protocol/forms.ts";
import { KnownSnapshot, ReplaySnapshot, RescueSnapshot, SnapshotPath, TakeSnapshot } from "../../protocol/snapshot.ts";
import type { PeerApp } from "../../server/peer-server.ts";
import { hangUp } from "./leaving-routes.ts";

const params = Type.Object({ id: Type.String({ pattern: "^[0-9a-f]{12}$" }) }, closed);
const Place = Type.Object({ path: SnapshotPath }, closed);
type ById = { Params: { id: string } };

type Routed = Pick<Snapshots, "take" | "rescue" | "remove" | "find" | "replay">;

export function registerSnapshotRoutes(app: PeerApp, snapshots: Routed, places: Places): void {
  app.post<{ Body: { path: string } }>("/node/snapshots/find", { schema: { body: Place } }, async (request) => {
    const snapshot = await snapshots.find(request.body.path);
    return snapshot ? { snapshot } : {};
  });
  app.post<ById & { Body: TakeSnapshot }>(
    "/node/snapshots/:id/take",
    { schema: { params, body: TakeSnapshot } },
    async (request, reply) => {
      const signal = hangUp(reply);
      expectItsOwn(request.body);
      const { pod } = await places.find(request.body.pod);
      return await snapshots.take(request.params.id, { ...request.body, pod }, signal);
    },
  );
  app.post<ById & { Body: RescueSnapshot }>(
    "/node/snapshots/:id/rescue",
    { schema: { params, body: RescueSnapshot } },
    async (request, reply) => {
      const signal = hangUp(reply);
      expectItsOwn(request.body);
      const pod = await places.kept(request.params.id, request.body.pod);
      return pod ? await snapshots.rescue(request.params.id, { ...request.body, pod }, signal) : { saved: false };
    },
  );
  app.post<{ Body: KnownSnapshot }>("/node/snapshots/remove", { schema: { body: KnownSnapshot } }, async (request) => {
    await snapshots.remove(request.body);
    return {};
  });
  app.post<ById & { Body: ReplaySnapshot }>("/node/snapshots/:id/replay", { schema: { params, body: ReplaySnapshot } }, (request, reply) =>
    snapshots.replay(request.params.id, request.body, hangUp(reply)),
  );
}

/** Whoever may have a snapshot is told by the namespace in its need. @throws UmsError OTHER_POD */
function expectItsOwn({ pod, need }: Pick<RescueSnapshot, "pod" | "need">): void {
  const { namespace, uid } = need.pod.metadata;
  if (namespace === pod.namespace && uid === pod.uid) return;
  throw new UmsError("OTHER_POD", `The snapshot would be of a pod of namespace ${namespace}, not of ${pod.namespace}/${pod.name}.`);
}

/** The destination's half behind HTTP: what a paired site may ask, and nothing more. */
import { Type } from "typebox";
import { closed } from "../../protocol/forms.ts";
import { ServiceNeed } from "../../protocol/need.ts";
import type { PeerApp } from "../../server/peer-server.ts";
import { MigrationId } from "./schema.ts";

const params = Type.Object({ id: MigrationId }, closed);
type ById = { Params: { id: string } };

/** The destination's half of whatever kind of site; what it is asked for has been validated. */
export type Arrivals = Readonly<{
  check(peer: string, need: ServiceNeed, signal: AbortSignal): Promise<unknown>;
  reserve(id: string, peer: string, need: ServiceNeed): Promise<unknown>;
  /** Named as in the path: `POST /peer/migrations/:id/NAME`. */
  actions: Readonly<Record<string, (id: string, peer: string) => Promise<unknown>>>;
  destroy(id: string, peer: string): Promise<unknown>;
  state(id: string, peer: string): Promise<string> | string;
}>;

export function registerPeerRoutes(app: PeerApp, arrivals: Arrivals): void {
  const peerOf = (request: { peer: string | undefined }) => request.peer ?? ""; // the server lets nobody through without one
  app.post("/peer/check", { schema: { body: ServiceNeed } }, (request) =>
    arrivals.check(peerOf(request), request.body as ServiceNeed, AbortSignal.timeout(120_000)),
  );
  app.put<ById>("/peer/migrations/:id", { schema: { params, body: ServiceNeed } }, (request) =>
    arrivals.reserve(request.params.id, peerOf(request), request.body as ServiceNeed),
  );
  app.get<ById>("/peer/migrations/:id", { schema: { params } }, async (request) => ({
    state: await arrivals.state(request.params.id, peerOf(request)),
  }));
  for (const [name, action] of Object.entries(arrivals.actions)) {
    app.post<ById>(
      `/peer/migrations/:id/${name}`,
      { schema: { params } },
      async (request) => (await action(request.params.id, peerOf(request))) ?? {},
    );
  }
  app.delete<ById>("/peer/migrations/:id", { schema: { params } }, async (request) => {
    await arrivals.destroy(request.params.id, peerOf(request));
    return {};
  });
}

/** The source's half of a migration on its node, behind HTTP. What is asked of a pod is done where the node itself finds it. */
import type { FastifyReply } from "fastify";
import { Type } from "typebox";
import { type LeavingAction, leavingActions } from "../../approaches/orchestrator-level/node/client.ts";
import type { Leaving } from "../../approaches/orchestrator-level/node/leaving.ts";
import type { Places } from "../../approaches/orchestrator-level/node/places.ts";
import { UmsError } from "../../errors.ts";
import { closed } from "../../protocol/forms.ts";
import { migrationIdPattern } from "../../protocol/names.ts";
import { LeavingPod, type PodOnNode, PodReference } from "../../protocol/pod.ts";
import type { OnNode } from "../../protocol/snapshot.ts";
import type { PeerApp } from "../../server/peer-server.ts";

const params = Type.Object({ id: Type.String({ pattern: migrationIdPattern }) }, closed);
type Asked = { Params: { id: string }; Body: LeavingPod };
type ActionOnPod = Exclude<LeavingAction, "clean-up">;

/** What is asked of a pod that nothing is left of, and that no migration has begun with, is done already. */
const whenGone: Partial<Record<ActionOnPod, object>> = {
  ...{ release: {}, "end-transfer": {}, thaw: {}, reset: {}, discard: {} },
  "is-lost": { lost: true },
  kill: { late: 0 },
};

export function registerLeavingRoutes(app: PeerApp, { leaving, places }: { leaving: Leaving; places: Places }): void {
  app.post<{ Body: PodReference }>("/node/describe", { schema: { body: PodReference } }, (request) =>
    leaving.describe(request.body, AbortSignal.timeout(120_000)),
  );

  const actions: Record<ActionOnPod, (id: string, body: OnNode<LeavingPod>, signal: AbortSignal) => Promise<unknown>> = {
    "pre-copy": async (id, body, signal) => ({ address: await leaving.preCopy(id, body, signal) }),
    prepare: (id, body) => leaving.prepare(id, body),
    "await-young": (id, { pod }) => leaving.awaitYoung(id, pod),
    hold: (_id, { pod }) => leaving.hold(pod),
    release: (_id, { pod }) => leaving.release(pod),
    freeze: (id, { pod }) => leaving.freeze(id, pod),
    "end-transfer": (id, { pod }) => leaving.endTransfer(id, pod),
    thaw: (id, { pod }) => leaving.thaw(id, pod),
    "expect-frozen": (_id, { pod }) => leaving.expectFrozen(pod),
    "is-lost": async (_id, { pod }) => ({ lost: await leaving.isLost(pod) }),
    transfer: (id, body, signal) => leaving.transfer(id, body, signal),
    reset: (_id, { pod }) => leaving.reset(pod),
    kill: async (_id, { pod }) => ({ late: await leaving.kill(pod) }),
    discard: (id, { pod }) => leaving.discard(id, pod),
  };
  /** From `prepare` on by the node's own note: what is frozen or killed is not found any more. */
  const whereIs = async (action: ActionOnPod, id: string, pod: PodReference): Promise<PodOnNode | undefined> => {
    if (action === "pre-copy") return (await places.find(pod)).pod;
    return action === "prepare" ? await places.keep(id, pod) : await places.kept(id, pod);
  };
  for (const action of leavingActions.filter((each) => each !== "clean-up")) {
    app.post<Asked>(`/node/leaving/:id/${action}`, { schema: { params, body: LeavingPod } }, async ({ params: { id }, body }, reply) => {
      const signal = hangUp(reply);
      const pod = await whereIs(action, id, body.pod);
      if (pod) return (await actions[action](id, { ...body, pod }, signal)) ?? {};
      const answer = whenGone[action];
      if (answer) return answer;
      throw new UmsError("SERVICE_NOT_RUNNING", `Pod ${body.pod.name} does not run on this node.`);
    });
  }
  app.post<Asked>("/node/leaving/:id/clean-up", { schema: { params, body: LeavingPod } }, async ({ params: { id }, body }) => {
    await places.kept(id, body.pod); // another pod's is not cleaned up
    await leaving.cleanUp(id);
    return {};
  });
}

/** Aborts when whoever asked has gone: a request that hangs up gives up what it asked for, so that an undo doesn't wait for it. */
export function hangUp(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  reply.raw.once("close", () => reply.raw.writableEnded || controller.abort());
  return controller.signal;
}

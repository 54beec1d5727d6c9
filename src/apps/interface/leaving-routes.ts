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

/** How long what is asked keeps what is asked next of the same migration waiting: else a step that was given up would come after its undo. */
const turns: Partial<Record<LeavingAction, "to begin" | "to end">> = {
  // An undo ends these itself.
  ...{ "pre-copy": "to begin", freeze: "to begin", transfer: "to begin" },
  // Nothing else ends these, and they are short: the pod's network is held, and its mark is set, by programs that end by themselves.
  ...{ prepare: "to end", hold: "to end" },
  ...{ release: "to begin", "end-transfer": "to begin", thaw: "to begin", discard: "to begin", "clean-up": "to begin" },
};
const starting: ReadonlySet<LeavingAction> = new Set(["pre-copy", "prepare", "hold", "freeze", "transfer"]);

export function registerLeavingRoutes(app: PeerApp, { leaving, places }: { leaving: Leaving; places: Places }): void {
  app.post<{ Body: PodReference }>("/node/describe", { schema: { body: PodReference } }, (request) =>
    leaving.describe(request.body, AbortSignal.timeout(120_000)),
  );

  const actions: Record<ActionOnPod, (id: string, body: OnNode<LeavingPod>, signal: AbortSignal) => Promise<unknown>> = {
    "pre-copy": async (id, body, signal) => ({ address: await leaving.preCopy(id, body, signal) }),
    prepare: (id, body, signal) => leaving.prepare(id, body, signal),
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
  /** What is asked of a pod that nothing is left of, and that no migration has begun with, is done already. */
  const nothing = async () => ({});
  const whenGone: Partial<Record<ActionOnPod, (id: string) => Promise<unknown>>> = {
    ...{ release: nothing, "end-transfer": nothing, thaw: nothing, reset: nothing },
    discard: (id) => leaving.discard(id, undefined),
    "is-lost": async () => ({ lost: true }),
    kill: async () => ({ late: 0 }),
  };
  /** From `prepare` on by the node's own note: what is frozen or killed is not found any more. */
  const whereIs = async (action: ActionOnPod, id: string, pod: PodReference): Promise<PodOnNode | undefined> => {
    if (action === "pre-copy") return (await places.find(pod)).pod;
    return action === "prepare" ? await places.keep(id, pod) : await places.kept(id, pod);
  };
  const inTurn = createTurns();
  for (const action of leavingActions.filter((each) => each !== "clean-up")) {
    app.post<Asked>(`/node/leaving/:id/${action}`, { schema: { params, body: LeavingPod } }, async ({ params: { id }, body }, reply) => {
      const signal = hangUp(reply);
      const begin = async () => {
        const pod = await whereIs(action, id, body.pod);
        // Whoever has gone undoes it next, or has already.
        if (starting.has(action)) signal.throwIfAborted();
        const act = pod ? () => actions[action](id, { ...body, pod }, signal) : whenGone[action];
        if (!act) throw new UmsError("SERVICE_NOT_RUNNING", `Pod ${body.pod.name} does not run on this node.`);
        return { ended: act(id) };
      };
      return (await inTurn(id, turns[action], begin)) ?? {};
    });
  }
  app.post<Asked>("/node/leaving/:id/clean-up", { schema: { params, body: LeavingPod } }, async ({ params: { id }, body }) => {
    await inTurn(id, turns["clean-up"], async () => {
      await places.kept(id, body.pod); // another pod's is not cleaned up
      return { ended: leaving.cleanUp(id) };
    });
    return {};
  });
}

type Begun = Readonly<{ ended: Promise<unknown> }>;

/** By the migration's id. @returns lets an action begin once those before it have begun, or ended, and resolves with what it ends with */
function createTurns() {
  const last = new Map<string, Promise<unknown>>();
  return async (id: string, turn: (typeof turns)[LeavingAction], begin: () => Promise<Begun>): Promise<unknown> => {
    if (!turn) return await (await begin()).ended;
    const begun = (last.get(id) ?? Promise.resolve()).then(begin);
    const over = begun.then(({ ended }) => (turn === "to end" ? ended : undefined)).then(ignore, ignore);
    last.set(id, over);
    void over.then(() => last.get(id) === over && last.delete(id));
    return await (
      await begun
    ).ended;
  };
}

const ignore = () => undefined;

/** Aborts when whoever asked has gone: a request that hangs up gives up what it asked for, so that an undo doesn't wait for it. */
export function hangUp(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  const give = () => reply.raw.writableEnded || controller.abort(new UmsError("CANCELLED", "Whoever asked for it has gone."));
  if (reply.raw.closed) give();
  else reply.raw.once("close", give);
  return controller.signal;
}

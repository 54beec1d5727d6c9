/**
 * A migration whose source is a snapshot: nothing runs there that could be frozen or held, and the snapshot stays as it is, unless it was made for this alone.
 * Everything else is as with a pod that leaves: what the destination makes, when it may run, and how it is undone.
 */
import { Type } from "typebox";
import type { Destination, MigrationPlan, Source } from "../../engine/ports.ts";
import { codeFrom, UmsError } from "../../errors.ts";
import { notesOf } from "../../preflight/notes.ts";
import { ArmAnswer, CreateAnswer, type DataTarget } from "../../protocol/conversation.ts";
import { CommitAnswer, type PodNeed } from "../../protocol/pod.ts";
import { checkThere, createDestinationSite } from "../destination.ts";
import type { OutgoingPodParts } from "./outgoing.ts";
import { withoutSecrets } from "./pod-need.ts";
import { labelsOf, needOf, podOf } from "./snapshot.ts";

/** Where a migration's snapshot is. */
export type SnapshotWanted = Readonly<{
  node: string;
  path: string;
  /** Of the pod that it becomes, where they are not those of the one that it was. */
  labels?: Readonly<Record<string, string>> | undefined;
  /** Removed once the pod is there. */
  temporary?: boolean | undefined;
}>;

/** What the source must know after a crash. */
export type SnapshotFacts = Readonly<{ takenBy: string; need: PodNeed; target?: DataTarget }>;

export type RestoringParts = Pick<
  OutgoingPodParts,
  "peer" | "namespace" | "node" | "dataTarget" | "isOwnSite" | "limits" | "arrived" | "noted" | "sent"
> &
  Readonly<{
    snapshot: SnapshotWanted;
    /** The node for the pod, where it is not the snapshot's own. */
    wantedNode: string | undefined;
    facts: {
      get(): SnapshotFacts | undefined;
      /** Durable when it resolves. */
      set(facts: SnapshotFacts): Promise<void>;
    };
  }>;

/** @param plan its service is the pod to make */
export function createRestoring(plan: MigrationPlan, parts: RestoringParts): { source: Source; destination: Destination } {
  const { peer, limits, namespace } = parts;
  const { node: nodeName, path, labels, temporary } = parts.snapshot;
  const site = createDestinationSite(peer, plan.id, limits);

  const facts = (): SnapshotFacts => {
    const found = parts.facts.get();
    if (!found) throw new UmsError("INTERNAL", `Migration ${plan.id} was never admitted.`);
    return found;
  };
  const nothing = async () => undefined;
  /** With what no object may tell. Whoever takes over after a crash undoes, and doesn't need it. */
  let wholeNeed: PodNeed | undefined;

  const source: Source = {
    async admit(_plan, signal) {
      const limited = AbortSignal.any([signal, AbortSignal.timeout(limits.preflightMs)]);
      const snapshot = await (await parts.node(nodeName)).findSnapshot(path, limited);
      // Its memory is for those alone who may do anything with the pod that it was of.
      if (snapshot?.need.pod.metadata.namespace !== namespace)
        throw new UmsError("SNAPSHOT_NOT_FOUND", `Node ${nodeName} has no snapshot ${path} of a pod of namespace ${namespace}.`);
      const node = parts.wantedNode ?? (parts.isOwnSite ? nodeName : undefined);
      const need = needOf(snapshot, { name: plan.service, namespace, labels: labels ?? labelsOf(podOf(snapshot)), node });
      const { checks } = await checkThere(peer, need, { timeoutMs: limits.preflightMs, signal: limited });
      const notes = notesOf("destination", checks);
      if (notes.length > 0) parts.noted(notes);
      const refused = checks.find(({ ok }) => !ok);
      if (refused) throw new UmsError(codeFrom(refused.code), refused.detail ?? refused.name);
      wholeNeed = need;
      await parts.facts.set({ takenBy: snapshot.takenBy, need: withoutSecrets(need) });
    },

    preCopy: {
      async run(_plan, signal) {
        await site.ask("POST", "/arm", ArmAnswer, { timeoutMs: limits.reserveMs, signal });
      },
      discard: nothing,
    },
    holdClients: nothing,
    releaseClients: nothing,
    freeze: nothing,
    thaw: nothing,

    async transfer(_plan, signal) {
      const { takenBy, target } = facts();
      if (!target) throw new UmsError("INTERNAL", "It was not said where to send.");
      const client = await parts.node(nodeName);
      const { bytesSent } = await client.replaySnapshot(
        plan.id,
        { path, takenBy, namespace, target },
        { signal, timeoutMs: limits.transferMs },
      );
      parts.sent(bytesSent);
    },

    forwardClients: nothing,
    async remove() {
      if (temporary) await (await parts.node(nodeName)).removeSnapshot({ path, takenBy: facts().takenBy, namespace });
      await site.acknowledge();
    },
    cleanUp: nothing,
  };

  const destination: Destination = {
    async reserve(_plan, signal) {
      if (!wholeNeed) throw new UmsError("INTERNAL", `Migration ${plan.id} was not admitted by this operator.`);
      await site.ask("PUT", "", Type.Unknown(), { body: wholeNeed, timeoutMs: limits.reserveMs, signal });
      const created = await site.ask("POST", "/create", CreateAnswer, { timeoutMs: limits.reserveMs, signal });
      await parts.facts.set({ ...facts(), target: parts.dataTarget(created) });
    },
    release: site.release,
    restore: (_plan, signal) => site.restore(signal),
    destroyRestored: site.destroyRestored,
    async commit() {
      const { pod } = await site.commit(CommitAnswer);
      if (pod) parts.arrived(pod);
    },
  };

  return { source, destination };
}

import { pino } from "pino";
import { expect, test } from "vitest";
import type { NodeClient } from "../../approaches/orchestrator-level/node/client.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import { migrationFinalizer, type MigrationObject } from "../../platforms/kubernetes/migration.ts";
import { createForwardings } from "./forwardings.ts";

/** A Migration that has ended, and whose forwarding had this slot. */
const ended = (phase: "Succeeded" | "RolledBack", slot: number) =>
  ({
    metadata: { name: phase.toLowerCase(), namespace: "default", uid: `${phase} ${slot}`, finalizers: [migrationFinalizer] },
    spec: { pod: "redis", destination: "b" },
    status: { phase, endedAt: "2026-01-01T00:00:00Z", facts: { source: { forwarding: { slot, to: "10.0.0.1", ports: [] } } } },
  }) as unknown as MigrationObject;

function forwardingsWith(known: readonly MigrationObject[], node: Partial<NodeClient>) {
  return createForwardings({
    cluster: { get: async () => undefined, list: async () => ({ items: known }) } as unknown as Cluster,
    interfaces: { all: () => [node as NodeClient] },
    siteName: "a",
    known: () => known,
    log: pino({ level: "silent" }),
    signal: new AbortController().signal,
  });
}

test("a Migration that was undone and is deleted takes nobody's way away: its slot may be another's by now", async () => {
  const removed: number[] = [];
  const [undone, moved] = [ended("RolledBack", 1), ended("Succeeded", 1)];
  const { forget } = forwardingsWith([undone, moved], { forwarding: async (_, { slot }) => void removed.push(slot) });
  await forget(undone);
  expect(removed).toEqual([]);
  await forget(moved);
  expect(removed).toEqual([1]);
});

test("a slot is taken once no node is being swept", async () => {
  const swept = Promise.withResolvers<void>();
  const kept: (readonly number[])[] = [];
  const forwardings = forwardingsWith([ended("Succeeded", 1)], {
    keepForwardings: async (slots) => {
      kept.push(slots);
      await swept.promise;
    },
    forwarding: async () => undefined,
  });
  const tending = forwardings.tend();
  const slot = forwardings.takeSlot("new").then((taken) => {
    kept.push([taken]);
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(kept).toEqual([[1]]);
  swept.resolve();
  await slot;
  expect(kept).toEqual([[1], [2]]);
  await tending;
});

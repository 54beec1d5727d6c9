import { describe, expect, test } from "vitest";
import type { Pod } from "../../platforms/kubernetes/kinds.ts";
import { snapshotPathPattern } from "../../protocol/names.ts";
import type { PodNeed } from "../../protocol/pod.ts";
import { copyName, differenceFrom, labelsOf, needOf, wantedLabels } from "./snapshot.ts";

const pod = (metadata: Pod["metadata"] = {}): Pod => ({
  metadata: { name: "shop", namespace: "web", uid: "u-1", labels: { app: "shop" }, ...metadata },
  spec: {
    containers: [
      { name: "main", image: "shop:1" },
      { name: "log", image: "log:2" },
    ],
  },
});
const owned = pod({ ownerReferences: [{ apiVersion: "apps/v1", kind: "ReplicaSet", name: "shop", uid: "u-2" }] });

test("a snapshot's path leads nowhere but below its root", () => {
  const isPath = (path: string) => new RegExp(snapshotPathPattern).test(path);
  for (const path of ["shop", "kkk/shop", "a/b/c/shop.1_x-y"]) expect(isPath(`/var/lib/kubelet/migration/${path}`), path).toBe(true);
  for (const path of ["", "..", "../pods", "a/../b", ".hidden", ".shop.partial", "a/.", "a//b", "a/", "a/b/c/d/e", "a b", "a;b", "a\n"])
    expect(isPath(`/var/lib/kubelet/migration/${path}`), path).toBe(false);
  for (const path of ["/etc/shop", "/var/lib/kubelet/migrations/shop", "var/lib/kubelet/migration/shop"]) expect(isPath(path)).toBe(false);
});

test("a copy's name says whose it is, however often it is copied, and is never too long", () => {
  expect(copyName("shop", "1234")).toBe("shop-migration-1234");
  expect(copyName("shop-migration-1234", "5678")).toBe("shop-migration-5678");
  expect(copyName("shop-migration-0123abcd-12", "5678abcd-0")).toBe("shop-migration-5678abcd-0");
  expect(copyName("shop-migration-plan", "1234")).toBe("shop-migration-plan-migration-1234");
  expect(copyName("x".repeat(253), "1234abcd-99")).toMatch(/^x+-migration-1234abcd-99$/);
  expect(copyName("x".repeat(253), "1234abcd-99")).toHaveLength(253);
});

describe("the labels of a copy", () => {
  test("are the pod's own, but not where its controller would take the copy for its own", () => {
    expect(labelsOf(pod())).toEqual({ app: "shop" });
    expect(labelsOf(owned)).toEqual({});
  });

  test("are the template's, where it has some, and those that the selector asks for", () => {
    expect(wantedLabels(pod(), {})).toEqual({ app: "shop" });
    expect(wantedLabels(pod(), { selector: { podmig: "dcn" } })).toEqual({ app: "shop", podmig: "dcn" });
    expect(
      wantedLabels(owned, { selector: { matchLabels: { podmig: "dcn" }, matchExpressions: [{ key: "x", operator: "Exists" }] } }),
    ).toEqual({
      podmig: "dcn",
    });
    expect(wantedLabels(pod(), { selector: { podmig: "dcn" }, template: { metadata: { labels: { app: "copy" } } } })).toEqual({
      app: "copy",
      podmig: "dcn",
    });
  });
});

test.each<[why: string | undefined, spec: object | undefined]>([
  [undefined, undefined],
  [undefined, {}],
  [undefined, { containers: [{ name: "log" }, { name: "main", image: "shop:1", env: [] }] }],
  ["The snapshot has no container other.", { containers: [{ name: "other" }] }],
  ["Container main of the snapshot runs shop:1, not shop:2.", { containers: [{ name: "main", image: "shop:2" }] }],
  ["The template lacks container log of the snapshot.", { containers: [{ name: "main", image: "shop:1" }] }],
])("%s: is what tells the template %j from the snapshot's pod", (why, spec) => {
  expect(differenceFrom(pod(), spec === undefined ? {} : { spec })).toBe(why);
});

test("the pod that is asked for is a new one, without owners, and led to by nobody", () => {
  const need = { kind: "Pod", pod: owned, node: "a-9", ports: [{ port: 80, published: 80 }], memoryBytes: 7 } as unknown as PodNeed;
  const snapshot = { takenBy: "0123456789ab", takenAt: "2026-01-01T00:00:00Z", heldMs: 1, need };
  const wanted = needOf(snapshot, { name: "copy", namespace: "web", labels: { x: "y" }, node: "a-1" });
  expect(wanted).toMatchObject({ node: "a-1", ports: [], memoryBytes: 7 });
  expect(wanted.pod.metadata).toEqual({ name: "copy", namespace: "web", uid: "u-1", labels: { x: "y" } });
  expect(needOf(snapshot, { name: "copy", namespace: "web", labels: {} }).node).toBeUndefined();
});

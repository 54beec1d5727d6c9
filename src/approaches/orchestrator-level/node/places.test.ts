import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Task } from "../../../container-engines/containerd/containerd.ts";
import type { PodReference } from "../../../protocol/pod.ts";
import { createPlaces, type Places } from "./places.ts";

const id = "0123456789ab";
const uid = "01234567-89ab-4cde-8f01-23456789abcd";
const container = "c".repeat(64);
const shop: PodReference = {
  namespace: "web",
  name: "shop",
  uid,
  containers: [{ name: "main", id: container, restarts: 2 }],
  volumes: ["disk"],
};

/** What runs on the node. */
let tasks: Task[];
let workDirectory: string;
let places: Places;

const task: Task = {
  id: container,
  pid: 4711,
  bundle: "/run/containerd/io.containerd.runtime.v2.task/k8s.io/x",
  runcRoot: "/run/containerd/runc/k8s.io",
  freezer: { version: 1, directory: `/sys/fs/cgroup/freezer/kubepods/pod${uid}/${container}` },
  changesDirectory: "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs",
  network: "/var/run/netns/cni-1",
  shm: "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/x/shm",
  labels: { uid, namespace: "web", name: "shop", container: "main" },
};
const create = () => createPlaces({ workDirectory, find: async (wanted) => tasks.find((each) => each.id === wanted) });

beforeEach(async () => {
  workDirectory = await mkdtemp(path.join(tmpdir(), "ums-places-"));
  tasks = [task];
  places = create();
});
afterEach(() => rmSync(workDirectory, { recursive: true }));

test("a pod is where containerd and the kernel say, below its own directories", async () => {
  const { pod, bundles } = await places.find(shop);
  expect(pod).toMatchObject({
    uid,
    network: task.network,
    shm: task.shm,
    volumes: [{ name: "disk", directory: `/var/lib/kubelet/pods/${uid}/volumes/kubernetes.io~empty-dir/disk` }],
    containers: [{ pid: 4711, freezer: task.freezer, logPath: `/var/log/pods/web_shop_${uid}/main/2.log` }],
  });
  expect(bundles.get("main")).toBe(task.bundle);
});

describe("a container of another pod", () => {
  test.each(["uid", "namespace", "name", "container"] as const)("is not taken for one of this pod: it has another %s", async (label) => {
    const other = label === "uid" ? "11234567-89ab-4cde-8f01-23456789abcd" : "other";
    tasks = [{ ...task, labels: { ...task.labels!, [label]: other } }];
    for (const act of [() => places.find(shop), () => places.keep(id, shop), () => places.kept(id, shop)])
      await expect(act()).rejects.toMatchObject({ code: "OTHER_POD" });
  });

  test("nor is one of no pod", async () => {
    tasks = [{ ...task, labels: undefined }];
    await expect(places.find(shop)).rejects.toMatchObject({ code: "OTHER_POD" });
  });
});

describe("what a migration has begun with", () => {
  test("is found when its containers have ended, by another process, too", async () => {
    const pod = await places.keep(id, shop);
    tasks = [];
    expect(await places.kept(id, shop)).toEqual(pod);
    expect(await create().kept(id, shop)).toEqual(pod);
    await expect(places.find(shop)).rejects.toMatchObject({ code: "RUNTIME_NOT_RUNC" });
  });

  test("is no other pod's, whatever a request says of it", async () => {
    await places.keep(id, shop);
    const others = [{ namespace: "evil" }, { name: "other" }, { uid: "11234567-89ab-4cde-8f01-23456789abcd" }];
    for (const other of others.map((change) => ({ ...shop, ...change }))) {
      await expect(places.kept(id, other)).rejects.toMatchObject({ code: "OTHER_POD" });
      await expect(places.keep(id, other)).rejects.toMatchObject({ code: "ALREADY_MIGRATING" });
    }
  });

  test.each([
    ["is cut off", '{"of":{"namespace":"web"'],
    ["is of another form", '{"of":{"namespace":"web"}}'],
  ])("is not forgotten where the note of it %s", async (_how, text) => {
    await places.keep(id, shop);
    writeFileSync(path.join(workDirectory, id, ".pod"), text);
    tasks = [];
    await expect(places.kept(id, shop)).rejects.toMatchObject({ code: "BAD_STATE" });
    await expect(places.keep(id, shop)).rejects.toMatchObject({ code: "BAD_STATE" });
  });

  test("is not forgotten where the note of it can't be read", async () => {
    mkdirSync(path.join(workDirectory, id, ".pod"), { recursive: true });
    tasks = [];
    await expect(places.kept(id, shop)).rejects.toMatchObject({ code: "EISDIR" });
  });

  test("is what runs, before anything was noted, or nothing", async () => {
    expect(await places.kept(id, shop)).toEqual((await places.find(shop)).pod);
    tasks = [];
    expect(await places.kept(id, shop)).toBeUndefined();
  });
});

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { duplexPair } from "node:stream";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { UmsError } from "../../../errors.ts";
import type { PodNeed, PodOnNode } from "../../../protocol/pod.ts";
import type { OnNode, TakeSnapshot } from "../../../protocol/snapshot.ts";
import { receive } from "../../../transfer/channel.ts";
import { makeRoomForDump } from "./dump.ts";
import type { Leaving } from "./leaving.ts";
import type { PodControl } from "./pod-control.ts";
import { createSnapshots, type Snapshots } from "./snapshots.ts";

const id = "0123456789ab";
const other = "ba9876543210";
const never = new AbortController().signal;

let work: string;
let root: string;
let pod: PodOnNode;
let need: PodNeed;
/** What was done to the pod. */
let done: string[];
let control: PodControl;
let snapshots: Snapshots;
let place: string;

const container = (name: string, changesDirectory: string): PodOnNode["containers"][number] => ({
  name,
  id: "c".repeat(64),
  pid: 2,
  runcRoot: "/run/containerd/runc/k8s.io",
  freezer: { version: 2, directory: `/sys/fs/cgroup/${name}` },
  changesDirectory,
  logPath: "/var/log/pods/none/0.log",
});

beforeEach(() => {
  work = mkdtempSync(path.join(tmpdir(), "ums-snapshots-"));
  root = path.join(work, "migration");
  place = path.join(root, "kkk/shop");
  const changes = path.join(work, "snapshots/1/fs");
  mkdirSync(changes, { recursive: true });
  mkdirSync(path.join(work, "work"));
  writeFileSync(path.join(changes, "note"), "what the service has written");
  const uid = "01234567-89ab-4cde-8f01-23456789abcd";
  pod = { uid, network: "/var/run/netns/x", containers: [container("main", changes)], volumes: [] };
  need = {
    kind: "Pod",
    pod: { metadata: { name: "shop", namespace: "web", uid }, spec: { containers: [{ name: "main" }] } },
    containers: [
      {
        name: "main",
        launch: {
          args: ["shop"],
          env: {},
          workDirectory: "/",
          uid: 0,
          gid: 0,
          groups: [],
          mounts: [],
          limits: { memoryBytes: 0, cpuShares: 0, cpuPeriodUs: 0, cpuQuotaUs: 0 },
        },
      },
    ],
    volumes: [],
    ports: [],
    memoryBytes: 1,
    fileBytes: 1,
    kernel: "6.18.0",
    cpuFeatures: [],
    cgroupVersion: 2,
    uids: [0],
  };
  done = [];
  const note = (what: string) => async () => void done.push(what);
  control = {
    expectUntouched: async () => undefined,
    isAsDumped: async () => true,
    memoryBytes: async () => 4096,
    hold: note("hold"),
    freeze: note("freeze"),
    thaw: note("thaw"),
    release: note("release"),
    async dump({ name }, { imageDirectory }) {
      done.push(`dump ${name}`);
      writeFileSync(path.join(imageDirectory, "pages-1.img"), "memory");
    },
    dumpEnded: async () => undefined,
  };
  snapshots = create();
});
afterEach(async () => {
  await snapshots.close();
  rmSync(work, { recursive: true, force: true });
});

function create(change: Partial<PodControl> = {}): Snapshots {
  return createSnapshots({
    control: { ...control, ...change },
    root,
    workDirectory: path.join(work, "work"),
    openData: () => Promise.reject(new Error("nobody is sent to")),
    imageDirectories: [path.join(work, "images")],
    check: async () => [{ name: "CRIU", ok: true }],
    limits: { transferMs: 20_000 },
    log: { info: () => undefined, warn: () => undefined },
  });
}

const request = (change: Partial<OnNode<TakeSnapshot>> = {}): OnNode<TakeSnapshot> => ({ path: place, pod, need, ...change });
const whole = ["hold", "freeze", "dump main", "thaw", "release"];
function expectNothingLeft() {
  expect(existsSync(root)).toBe(false);
  expect(readdirSync(path.join(work, "work"))).toEqual([]);
}

describe("a snapshot that is taken", () => {
  test("stands the pod still while it is dumped, and is whole, and root's alone", async () => {
    const { memoryBytes, fileBytes } = await snapshots.take(id, request(), never);
    expect(done).toEqual(whole);
    expect(memoryBytes).toBeGreaterThanOrEqual(4096);
    expect(fileBytes).toBeGreaterThan(28);
    expect(readdirSync(place).toSorted()).toEqual(["images", "snapshot.json", "streams"]);
    for (const directory of [root, path.dirname(place), place]) expect(statSync(directory).mode & 0o777).toBe(0o700);
    expect(readFileSync(path.join(place, "images/main/pages-1.img"), "utf8")).toBe("memory");
    expect(readdirSync(path.join(work, "work"))).toEqual([]);
    expect(readdirSync(path.dirname(place))).toEqual(["shop"]);
    expect(await snapshots.find(place)).toMatchObject({ takenBy: id, need: { pod: { metadata: { name: "shop" } } } });
  });

  test("is marked before the pod is touched, and not any more when it goes on", async () => {
    const marks: unknown[] = [];
    const mark = () => marks.push(JSON.parse(readFileSync(path.join(work, `work/${id}.checkpoint/mark.json`), "utf8")));
    snapshots = create({ hold: async () => void mark(), thaw: async () => void mark() });
    await snapshots.take(id, request(), never);
    expect(marks).toEqual([1, 2].map(() => ({ path: place, boot: expect.any(String) as string, pod })));
  });

  test("is the same one when it is asked for again", async () => {
    const first = await snapshots.take(id, request(), never);
    expect(await snapshots.take(id, request(), never)).toEqual(first);
    expect(done).toEqual(whole);
  });

  test("overwrites nothing, and lies in no other one and behind no link", async () => {
    await snapshots.take(id, request(), never);
    const refused = (at: string) => snapshots.take(other, request({ path: at }), never);
    await expect(refused(place)).rejects.toMatchObject({ code: "SNAPSHOT_EXISTS" });
    await expect(refused(path.dirname(place))).rejects.toMatchObject({ code: "SNAPSHOT_EXISTS" });
    await expect(refused(path.join(place, "images"))).rejects.toMatchObject({ code: "BAD_REQUEST" });
    symlinkSync("/etc", path.join(root, "away"));
    await expect(refused(path.join(root, "away/shop"))).rejects.toMatchObject({ code: "BAD_REQUEST" });
    await expect(refused(path.join(root, "away"))).rejects.toMatchObject({ code: "SNAPSHOT_EXISTS" });
    expect(done).toEqual(whole);
    symlinkSync(place, path.join(root, "alias"));
    expect(await snapshots.find(path.join(root, "alias"))).toBeUndefined();
  });

  test("is none as long as it is not complete", async () => {
    await snapshots.take(id, request(), never);
    rmSync(path.join(place, "snapshot.json"));
    expect(await snapshots.find(place)).toBeUndefined();
    writeFileSync(path.join(place, "snapshot.json"), '{"version":2}');
    expect(await snapshots.find(place)).toBeUndefined();
  });
});

describe("the pod goes on, and nothing is left,", () => {
  const undone = ["hold", "freeze", "thaw", "release"];

  test("when the dump fails", async () => {
    snapshots = create({ dump: () => Promise.reject(new UmsError("DUMP_FAILED", "no")) });
    await expect(snapshots.take(id, request(), never)).rejects.toMatchObject({ code: "DUMP_FAILED" });
    expect(done).toEqual(undone);
    expectNothingLeft();
  });

  test("when it can't be frozen", async () => {
    snapshots = create({ freeze: () => Promise.reject(new UmsError("TIMED_OUT", "no")) });
    await expect(snapshots.take(id, request(), never)).rejects.toMatchObject({ code: "TIMED_OUT" });
    expect(done).toEqual(["hold", "thaw", "release"]);
    expectNothingLeft();
  });

  /** A dump that ends only when it is ended. */
  function hanging(): Partial<PodControl> {
    const { promise, reject } = Promise.withResolvers<void>();
    promise.catch(() => undefined);
    return {
      dump: () => promise,
      async dumpEnded() {
        done.push("dump ended");
        reject(new UmsError("DUMP_FAILED", "killed"));
      },
    };
  }
  const ended = ["hold", "freeze", "dump ended", "thaw", "release"];

  test("when whoever asked has gone, once the dump has ended", async () => {
    snapshots = create(hanging());
    const gone = new AbortController();
    const taking = snapshots.take(id, request(), gone.signal);
    while (!done.includes("freeze")) await new Promise((resolve) => setTimeout(resolve, 5));
    gone.abort(new UmsError("CANCELLED", "gone"));
    await expect(taking).rejects.toMatchObject({ code: "CANCELLED" });
    expect(done).toEqual(ended);
    expectNothingLeft();
  });

  test("when the interface stops", async () => {
    snapshots = create(hanging());
    const taking = snapshots.take(id, request(), never);
    taking.catch(() => undefined);
    while (!done.includes("freeze")) await new Promise((resolve) => setTimeout(resolve, 5));
    await snapshots.close();
    expect(done).toEqual(ended);
    await expect(taking).rejects.toMatchObject({ code: "INTERRUPTED" });
    expectNothingLeft();
  });

  test("before its liveness probe has it killed", async () => {
    snapshots = create(hanging());
    await expect(snapshots.take(id, request({ livenessMs: 700 }), never)).rejects.toMatchObject({ code: "LIVENESS" });
    expect(done).toEqual(ended);
    expectNothingLeft();
  });

  test("also where it can't be thawed at the first try", async () => {
    let tries = 0;
    snapshots = create({
      dump: () => Promise.reject(new UmsError("DUMP_FAILED", "no")),
      async thaw() {
        if (++tries === 1) throw new UmsError("CRIU_REMAINS", "not yet");
        done.push("thaw");
      },
    });
    await expect(snapshots.take(id, request(), never)).rejects.toMatchObject({ code: "DUMP_FAILED" });
    expect(done).toEqual(undone);
    expectNothingLeft();
  });
});

describe("before the pod is touched,", () => {
  test.each<[string, Partial<PodControl>]>([
    ["ALREADY_MIGRATING", { expectUntouched: () => Promise.reject(new UmsError("ALREADY_MIGRATING", "frozen")) }],
    ["NO_DISK", { memoryBytes: async () => 2 ** 60 }],
  ])("it is refused with %s", async (code, change) => {
    snapshots = create(change);
    await expect(snapshots.take(id, request(), never)).rejects.toMatchObject({ code });
    expect(done).toEqual([]);
    expectNothingLeft();
  });

  test("a pod that leaves is not dumped, and one that is being dumped does not leave", async () => {
    const asked: string[] = [];
    const leaving = snapshots.apartFrom(
      new Proxy({} as Leaving, { get: (_target, action) => async () => void asked.push(String(action)), ownKeys: () => [] }),
    );
    await leaving.preCopy("mig", { pod }, never);
    await expect(snapshots.take(id, request(), never)).rejects.toMatchObject({ code: "ALREADY_MIGRATING" });
    expect(done).toEqual([]);
    await leaving.cleanUp("mig");
    const taking = snapshots.take(id, request(), never);
    while (!done.includes("freeze")) await new Promise((resolve) => setTimeout(resolve, 1));
    const busy = { code: "ALREADY_MIGRATING" };
    for (const action of [
      leaving.preCopy("mig", { pod }, never),
      leaving.prepare("mig", { pod }, never),
      leaving.hold(pod),
      leaving.release(pod),
      leaving.freeze("mig", pod),
      leaving.thaw("mig", pod),
      leaving.transfer("mig", { pod }, never),
      leaving.kill(pod),
    ])
      await expect(action).rejects.toMatchObject(busy);
    await expect(snapshots.take(other, request({ path: `${place}-2` }), never)).rejects.toMatchObject(busy);
    await taking;
    await leaving.thaw("mig", pod);
    expect(asked).toEqual(["preCopy", "cleanUp", "thaw"]);
  });
});

describe("of a pod that has ended while it was frozen,", () => {
  const rescue = () => snapshots.rescue(id, { path: place, pod, need }, never);
  const images = () => path.join(work, "images", `leaving-${id}`);
  async function dumped() {
    await makeRoomForDump([path.join(work, "images")], id, { pod, memoryBytes: 1 });
    writeFileSync(path.join(images(), "main/pages-1.img"), "memory");
    writeFileSync(path.join(images(), "main/inventory.img"), "last");
  }

  test("its dump and its files are a snapshot like any other, once", async () => {
    await dumped();
    expect(await rescue()).toEqual({ saved: true });
    expect(await rescue()).toEqual({ saved: true });
    expect(done).toEqual([]); // the pod is as it was
    expect(readFileSync(path.join(place, "images/main/pages-1.img"), "utf8")).toBe("memory");
    expect(await snapshots.find(place)).toMatchObject({ takenBy: id, need: { pod: { metadata: { name: "shop" } } } });
    expect(existsSync(images())).toBe(false); // the pod that is made of it may want the room
  });

  test("nothing is saved where there is no dump, it is not whole, or another boot has made it", async () => {
    expect(await rescue()).toEqual({ saved: false });
    await dumped();
    writeFileSync(path.join(images(), "main/inventory.img"), "");
    expect(await rescue()).toEqual({ saved: false });
    writeFileSync(path.join(images(), "main/inventory.img"), "last");
    snapshots = create({ isAsDumped: async () => false }); // it has run since
    expect(await rescue()).toEqual({ saved: false });
    snapshots = create();
    writeFileSync(path.join(images(), ".boot"), "another one");
    expect(await rescue()).toEqual({ saved: false });
    expectNothingLeft();
  });

  test("a place that is taken stays as it is", async () => {
    await dumped();
    await snapshots.take(other, request(), never);
    await expect(rescue()).rejects.toMatchObject({ code: "SNAPSHOT_EXISTS" });
    expect(await snapshots.find(place)).toMatchObject({ takenBy: other });
  });

  test("it can be removed, by whoever knows whose it is", async () => {
    await dumped();
    await rescue();
    await snapshots.remove({ path: place, takenBy: other, namespace: "web" });
    await snapshots.remove({ path: place, takenBy: id, namespace: "another" });
    expect(await snapshots.find(place)).toBeDefined();
    await snapshots.remove({ path: place, takenBy: id, namespace: "web" });
    expectNothingLeft();
    mkdirSync(path.join(path.dirname(place), ".shop.partial/images"), { recursive: true }); // of an attempt that a crash cut off
    await snapshots.remove({ path: place, takenBy: id, namespace: "web" });
    expectNothingLeft();
  });
});

describe("what an earlier process has left", () => {
  const markFile = () => path.join(work, `work/${id}.checkpoint/mark.json`);
  function leave(mark: object | string) {
    mkdirSync(path.dirname(markFile()), { recursive: true });
    writeFileSync(markFile(), typeof mark === "string" ? mark : JSON.stringify(mark));
    mkdirSync(path.join(path.dirname(place), ".shop.partial/images"), { recursive: true });
  }
  const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();

  test("is thawed, released and removed, its dump ended first", async () => {
    leave({ path: place, boot, pod });
    snapshots = create({ dumpEnded: async (directory) => void done.push(`ended ${path.relative(work, directory)}`) });
    await snapshots.recover();
    expect(done).toEqual([`ended work/${id}.checkpoint/main`, "thaw", "release"]);
    expectNothingLeft();
  });

  test("is only removed where the pod was not touched yet, or the node has been started again since", async () => {
    leave({ path: place, boot });
    await snapshots.recover();
    expectNothingLeft();
    leave({ path: place, boot: "another", pod });
    await snapshots.recover();
    expect(done).toEqual([]);
    expectNothingLeft();
  });

  test("may be a mark that never became whole", async () => {
    mkdirSync(path.dirname(markFile()), { recursive: true });
    writeFileSync(markFile(), '{"path"');
    await snapshots.recover();
    expect(done).toEqual([]);
    expectNothingLeft();
  });
});

test("a snapshot is sent as a pod would be, and only the one that was admitted", async () => {
  await snapshots.take(id, request(), never);
  const memory: Record<string, string> = {};
  const streams: unknown[] = [];
  const [near, far] = duplexPair();
  const received = receive(far, Buffer.alloc(0), {
    memory: ({ file }, chunk) => void (memory[file] = (memory[file] ?? "") + chunk.toString()),
    open(what) {
      streams.push(what);
      return { write: () => undefined, end: async () => undefined };
    },
    flushed: async () => undefined,
  });
  snapshots = createSnapshots({
    control,
    root,
    workDirectory: path.join(work, "work"),
    openData: async () => near,
    imageDirectories: [],
    check: async () => [],
    limits: { transferMs: 20_000 },
    log: { info: () => undefined, warn: () => undefined },
  });
  const replay = { path: place, takenBy: id, namespace: "web", target: { site: "a" } };
  const { bytesSent } = await snapshots.replay("mig", replay, never);
  await received;
  expect(memory).toEqual({ "pages-1.img": "memory" });
  expect(streams).toEqual(expect.arrayContaining([{ kind: "tree", tree: "changes", deleted: [] }]));
  expect(bytesSent).toBeGreaterThan(6);
  for (const change of [{ takenBy: other }, { namespace: "another" }])
    await expect(snapshots.replay("mig", { ...replay, ...change }, never)).rejects.toMatchObject({ code: "SNAPSHOT_NOT_FOUND" });
});

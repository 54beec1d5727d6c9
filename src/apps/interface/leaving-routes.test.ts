import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { type Duplex, duplexPair } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import fastify from "fastify";
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import type { LeavingAction } from "../../approaches/orchestrator-level/node/client.ts";
import { createLeaving, type Leaving } from "../../approaches/orchestrator-level/node/leaving.ts";
import type { Places } from "../../approaches/orchestrator-level/node/places.ts";
import type { PodOnNode } from "../../protocol/pod.ts";
import type { PeerApp } from "../../server/peer-server.ts";
import { sendProblem, strictValidation } from "../../server/problems.ts";
import { registerLeavingRoutes } from "./leaving-routes.ts";

const id = "0123456789ab";
const uid = "01234567-89ab-4cde-8f01-23456789abcd";
const container = "c".repeat(64);
const body = JSON.stringify({
  pod: { namespace: "web", name: "shop", uid, containers: [{ name: "main", id: container, restarts: 0 }], volumes: [] },
  target: { site: "beta" },
});

let work: string;
let pod: PodOnNode;
/** The pod is found once this resolves; undefined where it isn't. */
let located: () => Promise<PodOnNode | undefined>;
/** How often a place was looked for. */
let lookups: number;
/** The other end of the data connection. */
let peer: Duplex | undefined;

beforeEach(() => {
  work = mkdtempSync(path.join(tmpdir(), "ums-leaving-"));
  for (const each of ["group/main", "logs/main", "bin", "work"]) mkdirSync(path.join(work, each), { recursive: true });
  writeFileSync(path.join(work, "group/main/cgroup.events"), "populated 1\nfrozen 0\n");
  pod = {
    uid,
    network: path.join(work, "no-network"),
    containers: [
      {
        name: "main",
        id: container,
        pid: 2 ** 22 + 1,
        runcRoot: "/run/containerd/runc/k8s.io",
        freezer: { version: 2, directory: path.join(work, "group/main") },
        changesDirectory: work,
        logPath: path.join(work, "logs/main/0.log"),
      },
    ],
    volumes: [],
  };
  lookups = 0;
  located = async () => pod;
  // As the real one, it is killed with its caller's time limit alone; it sets no mark, which the test's own user might not be able to take away.
  const chattr = path.join(work, "bin/chattr");
  const waits = `case "$*" in +i*) while [ -e "${work}/slow" ]; do sleep 0.02; done;; esac`;
  writeFileSync(chattr, `#!/bin/sh\necho "$*" >> "${work}/marks"\n${waits}\n`);
  chmodSync(chattr, 0o755);
  vi.stubEnv("PATH", `${path.dirname(chattr)}:${process.env["PATH"]}`);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(work, { recursive: true, force: true });
});

/** What was done to the start mark, in turn. */
const marks = () =>
  existsSync(path.join(work, "marks"))
    ? readFileSync(path.join(work, "marks"), "utf8")
        .trim()
        .split("\n")
        .map((line) => /[+-]i/.exec(line)?.[0])
    : [];
const dumpDirectory = () => path.join(work, "images", `leaving-${id}`);
const frozenBy = () => readFileSync(path.join(work, "group/main/cgroup.freeze"), "utf8");

function real(): Leaving {
  return createLeaving({
    criu: ["criu"],
    places: { find: () => Promise.reject(new Error("nothing is described")) },
    imageDirectories: [path.join(work, "images")],
    workDirectory: path.join(work, "work"),
    async openData() {
      const [own, other] = duplexPair();
      peer = other;
      other.resume();
      return own;
    },
    check: async () => [],
    limits: { transferMs: 5_000 },
    log: { warn: () => undefined },
  });
}

/** @returns asks over a connection of its own, as the operator does; resolves with the answer's status */
async function serve(leaving: Leaving): Promise<(action: LeavingAction, signal?: AbortSignal) => Promise<number>> {
  const find = async () => {
    lookups++;
    return await located();
  };
  const places: Places = {
    find: async () => ({ pod: (await find()) ?? pod, bundles: new Map() }),
    keep: async () => (await find()) ?? pod,
    kept: find,
  };
  const app = fastify({ ajv: strictValidation }).setErrorHandler(sendProblem) as unknown as PeerApp;
  registerLeavingRoutes(app, { leaving, places });
  await app.listen({ host: "127.0.0.1", port: 0 });
  onTestFinished(() => app.close());
  const { port } = app.server.address() as AddressInfo;
  return (action, signal) =>
    new Promise((resolve, reject) => {
      const headers = { "content-type": "application/json" };
      const asked = request({
        host: "127.0.0.1",
        port,
        method: "POST",
        path: `/node/leaving/${id}/${action}`,
        headers,
        agent: false,
        signal,
      });
      asked.on("error", reject).on("response", (answer) => {
        answer.resume().on("end", () => resolve(answer.statusCode ?? 0));
      });
      asked.end(body);
    });
}

/** Asks, and hangs up once what is to be met has been met. */
async function givenUp(asking: (signal: AbortSignal) => Promise<number>, isMet: () => boolean): Promise<void> {
  const giveUp = new AbortController();
  const asked = asking(giveUp.signal).catch((cause: unknown) => (cause as Error).name);
  await vi.waitUntil(isMet);
  giveUp.abort();
  expect(await asked).toBe("AbortError");
}

/** Leaves nothing undone that was still on its way. */
const settle = () => sleep(300);

function recording(own: Partial<Leaving> = {}): { leaving: Leaving; asked: string[] } {
  const asked: string[] = [];
  const leaving = new Proxy(own as Leaving, {
    get:
      (target, action: keyof Leaving) =>
      (...given: never[]) => {
        asked.push(action);
        return (target[action] as ((...each: never[]) => unknown) | undefined)?.(...given) ?? Promise.resolve();
      },
  });
  return { leaving, asked };
}

describe("a step that was given up while its pod was looked for", () => {
  test.each([
    ["pre-copy", "discard", "discard"],
    ["prepare", "discard", "discard"],
    ["hold", "release", "release"],
    ["freeze", "thaw", "thaw"],
    ["transfer", "end-transfer", "endTransfer"],
    ["prepare", "clean-up", "cleanUp"],
  ] as const)("never begins: %s, undone by %s", async (action, undo, undone) => {
    const { leaving, asked } = recording();
    const ask = await serve(leaving);
    const gate = Promise.withResolvers<PodOnNode>();
    located = () => gate.promise;
    await givenUp(
      (signal) => ask(action, signal),
      () => lookups === 1,
    );
    located = async () => pod;
    const undoing = ask(undo);
    await Promise.race([undoing, settle()]);
    gate.resolve(pod);
    expect(await undoing).toBe(200);
    await settle();
    expect(asked).toEqual([undone]);
  });

  test("leaves no dump and no mark behind", async () => {
    const ask = await serve(real());
    const gate = Promise.withResolvers<PodOnNode>();
    located = () => gate.promise;
    await givenUp(
      (signal) => ask("prepare", signal),
      () => lookups === 1,
    );
    located = async () => pod;
    const undoing = ask("discard").then(async (status) => [status, await ask("clean-up")]);
    await Promise.race([undoing, settle()]);
    gate.resolve(pod);
    expect(await undoing).toEqual([200, 200]);
    await settle();
    expect(existsSync(dumpDirectory())).toBe(false);
    expect(marks()).toEqual(["-i"]);
  });
});

describe("a step that was given up when it had begun", () => {
  test("takes its mark away before its undo is answered", async () => {
    const ask = await serve(real());
    writeFileSync(path.join(work, "slow"), "");
    await givenUp(
      (signal) => ask("prepare", signal),
      () => marks().length === 1,
    );
    const undoing = ask("clean-up");
    await Promise.race([undoing, settle()]);
    rmSync(path.join(work, "slow"));
    expect(await undoing).toBe(200);
    expect(marks()).toEqual(["+i", "-i"]);
    expect(existsSync(dumpDirectory())).toBe(false);
  });

  test("is done when it is asked for again", async () => {
    const ask = await serve(real());
    writeFileSync(path.join(work, "slow"), "");
    await givenUp(
      (signal) => ask("prepare", signal),
      () => marks().length === 1,
    );
    const again = ask("prepare");
    await Promise.race([again, settle()]);
    rmSync(path.join(work, "slow"));
    expect(await again).toBe(200);
    expect(marks()).toEqual(["+i", "-i", "+i"]);
    expect(existsSync(dumpDirectory())).toBe(true);
  });

  test("holds no later than its release", async () => {
    const held = Promise.withResolvers<void>();
    const { leaving, asked } = recording({ hold: () => held.promise });
    const ask = await serve(leaving);
    await givenUp(
      (signal) => ask("hold", signal),
      () => asked.length === 1,
    );
    const undoing = ask("release");
    await Promise.race([undoing, settle()]);
    expect(asked).toEqual(["hold"]);
    held.resolve();
    expect(await undoing).toBe(200);
    expect(asked).toEqual(["hold", "release"]);
  });

  test("is joined by a repeated freeze, and a thaw ends both", async () => {
    const ask = await serve(real());
    await givenUp(
      (signal) => ask("freeze", signal),
      () => existsSync(path.join(work, "group/main/cgroup.freeze")),
    );
    const again = ask("freeze");
    await vi.waitUntil(() => lookups === 2);
    writeFileSync(path.join(work, "group/main/cgroup.events"), "populated 1\nfrozen 1\n");
    expect(await again).toBe(200);
    expect(frozenBy()).toBe("1");
    expect(await ask("thaw")).toBe(200);
    expect(frozenBy()).toBe("0");
  });
});

test.each(["freeze", "transfer", "pre-copy"] as const)("an undo waits for no %s that has begun", async (action) => {
  const never = () => new Promise<never>(() => undefined);
  const { leaving, asked } = recording({ freeze: never, transfer: never, preCopy: never });
  const ask = await serve(leaving);
  const giveUp = new AbortController();
  const asking = ask(action, giveUp.signal).catch(() => undefined);
  await vi.waitUntil(() => asked.length === 1);
  for (const undo of ["thaw", "end-transfer", "release", "discard", "clean-up"] as const) expect(await ask(undo)).toBe(200);
  giveUp.abort();
  await asking;
});

test("the data connection of a pod that is not found any more ends with its discard", async () => {
  const ask = await serve(real());
  pod = { ...pod, containers: [] };
  await givenUp(
    (signal) => ask("pre-copy", signal),
    () => peer !== undefined,
  );
  located = async () => undefined;
  expect(await ask("discard")).toBe(200);
  await vi.waitUntil(() => peer?.readableEnded === true || peer?.closed === true, { timeout: 2_000 });
});

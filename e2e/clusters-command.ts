/** `npm run clusters up|down`: the tests' clusters for somebody to look around in. They stay until `down`. */
import { spawn } from "node:child_process";
import { existsSync, openSync, readFileSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { kubernetesPrograms } from "../setup/cluster-programs.ts";
import { containerImages } from "../setup/container-images.ts";
import { setUp } from "../setup/setup.ts";
import { createClusters } from "./clusters.ts";
import { imageLayout } from "./images.ts";
import { startTime } from "./runs.ts";

type State = Readonly<{ pid: number; startTime: string | undefined; greeting: string }>;

const directory = "/var/tmp/ums-clusters";
const stateFile = join(directory, "state.json");
const logFile = join(directory, "log");

/** Of the clusters that are up. */
function readState(): State | undefined {
  if (!existsSync(stateFile)) return undefined;
  const state = JSON.parse(readFileSync(stateFile, "utf8")) as State;
  return startTime(state.pid) === state.startTime ? state : undefined;
}

async function up(): Promise<void> {
  const running = readState();
  if (running) {
    console.log(running.greeting);
    return;
  }
  await setUp();
  await mkdir(directory, { recursive: true });
  const log = openSync(logFile, "w");
  const holder = spawn(process.execPath, [fileURLToPath(import.meta.url), "hold"], { detached: true, stdio: ["ignore", log, log] });
  holder.unref();
  console.log(`Making clusters a and b; the first time takes minutes (${logFile}) …`);
  for (;;) {
    const state = readState();
    if (state) {
      console.log(state.greeting);
      return;
    }
    if (holder.exitCode !== null || holder.signalCode !== null)
      throw new Error(`The clusters did not come up:\n${readFileSync(logFile, "utf8")}`);
    await sleep(200);
  }
}

/** What is up lives in this process, and ends with it. */
async function hold(): Promise<void> {
  const ended = new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, resolve);
  });
  const ours = await containerImages(["memhog", "ums", "ssu-interface"]);
  const redis = { reference: "docker.io/library/redis:7", layout: await imageLayout("redis") };
  await using clusters = await createClusters({ images: [...ours, redis] });
  const program = join(await kubernetesPrograms(), "kubectl");
  const lines = [];
  for (const { name, kubeconfig, server, nodes } of [clusters.a, clusters.b]) {
    const script = join(directory, `kubectl-${name}`);
    const command = `exec nsenter --net=${clusters.wan.networkNamespace} -- ${program} --kubeconfig=${kubeconfig} "$@"`;
    await writeFile(script, `#!/bin/sh\n${command}\n`, { mode: 0o755 });
    lines.push(
      `Cluster ${name}: ${server}, kubeconfig ${kubeconfig}`,
      `  ${script} get nodes`,
      ...nodes.map((node) => `  node ${node.name} (${node.address}): nsenter --target=${node.initPid()} --all sh`),
    );
  }
  lines.push(`Images: ${[...ours, redis].map(({ reference }) => reference).join(" ")}`, "Remove all of it: npm run clusters down");
  const state: State = { pid: process.pid, startTime: startTime(process.pid), greeting: lines.join("\n") };
  await writeFile(stateFile, JSON.stringify(state));
  await ended;
}

async function down(): Promise<void> {
  const state = readState();
  if (state) {
    process.kill(state.pid, "SIGTERM");
    const deadline = Date.now() + 60_000;
    while (startTime(state.pid) === state.startTime) {
      if (Date.now() > deadline) throw new Error(`Process ${state.pid}, which holds the clusters, does not end.`);
      await sleep(100);
    }
  }
  await rm(directory, { recursive: true, force: true });
  console.log(state ? "The clusters are gone." : "No clusters were up.");
}

const verbs = { up, down, hold };
const verb = process.argv[2] ?? "";
if (!Object.hasOwn(verbs, verb)) throw new Error("npm run clusters up|down");
await verbs[verb as keyof typeof verbs]();

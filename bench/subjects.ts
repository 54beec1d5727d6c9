/** The three ways of moving a Redis that the benchmark compares. Each leaves both hosts as it found them. */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { startClient } from "../e2e/client.ts";
import type { Host } from "../e2e/hosts.ts";
import type { RunningProcess } from "../e2e/place.ts";
import { imageReference } from "../e2e/images.ts";
import { redisPort, startRedis } from "../e2e/redis.ts";
import type { Sites } from "../e2e/sites.ts";

/** What one move cost, in milliseconds. */
export type Measured = Readonly<{
  downtimeMs: number;
  totalMs: number;
  migration?: Migration;
  rssMiB?: { source: number; destination: number };
}>;
export type Subject = (sites: Sites, memoryMiB: number) => Promise<Measured>;

const prober = new URL("./prober.ts", import.meta.url).pathname;
const transferPort = 9200;
const work = "/dev/shm/bench";

/** Keys are filled the same way everywhere; see e2e/redis.ts. */
const populate = (memoryMiB: number) => ["redis-cli", "debug", "populate", String(memoryMiB * 240), "key", "4096"];
const redisCommand = ["redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes"];

const ums: Subject = async ({ hosts, a, b }, memoryMiB) => {
  await startRedis(a.host, { memoryMiB });
  const client = await startClient(hosts.wan, { host: a.host.address, port: redisPort, everyMs: 2 });
  await sleep(500);
  using rss = watchRss([a.serve(), b.serve()]);
  const migration = await a.json<Migration>(["migrate", "redis", "--to", b.name]);
  await sleep(300);
  const met = await client.stop();
  if (migration.phase !== "Succeeded" || met.lostWrites > 0) throw new Error(`ums: ${JSON.stringify({ migration, met })}`);
  const [source = 0, destination = 0] = rss.peaksMiB();
  await b.host.podman(["rm", "--force", "--time", "0", "redis"]);
  await a.ums(["release", migration.id]);
  return { downtimeMs: met.downtimeMs, totalMs: migration.totalMs ?? 0, migration, rssMiB: { source, destination } };
};

/** What Podman has of its own, by its fastest options, the archive in shared memory. */
const podman: Subject = async (sites, memoryMiB) => {
  const { a, b } = sites;
  await startRedis(a.host, { memoryMiB });
  const archive = `${work}/c.tar`;
  // Podman 4.3 has no option for it, and would refuse to checkpoint a container that has a client.
  for (const { host } of [a, b]) await host.exec(["sh", "-c", "mkdir -p /etc/criu && echo tcp-close > /etc/criu/runc.conf"]);
  const measured = await betweenAddresses(sites, {
    source: `mkdir -p ${work} && podman container checkpoint --compress none --export ${archive} redis && socat -u -b 1048576 OPEN:${archive} TCP:${b.host.address}:${transferPort}`,
    destination: `mkdir -p ${work} && socat -u -b 1048576 TCP-LISTEN:${transferPort},reuseaddr OPEN:${archive},creat,trunc && podman container restore --import ${archive}`,
  });
  for (const { host } of [a, b]) {
    await host.podman(["rm", "--force", "--time", "0", "--ignore", "redis"]);
    await host.exec(["rm", "-rf", work, "/etc/criu/runc.conf"]);
  }
  return measured;
};

/** runc and CRIU on a container of their own in the host's network: no engine, no encryption. */
const runcCriu: Subject = async (sites, memoryMiB) => {
  const { a, b } = sites;
  for (const { host } of [a, b]) await makeBundle(host);
  const run = (host: Host, script: string, timeoutMs = 60_000) => host.exec(["sh", "-ec", script], { timeoutMs });
  await run(
    a.host,
    `cd ${work}/bundle && { runc --log ${work}/log run --detach bench </dev/null >/dev/null 2>&1 || { cat ${work}/log >&2; exit 1; }; }`,
  );
  await run(a.host, "for i in $(seq 100); do redis-cli ping >/dev/null 2>&1 && exit; sleep 0.05; done; exit 1");
  await a.host.exec(populate(memoryMiB), { timeoutMs: 60_000 });
  const measured = await betweenAddresses(sites, {
    source: `mkdir -p ${work}/image && CRIU_CONFIG_FILE=${work}/criu.conf runc checkpoint --image-path ${work}/image --work-path ${work}/work bench && tar --create --directory ${work}/image . | socat -u -b 1048576 - TCP:${b.host.address}:${transferPort}`,
    destination: `mkdir -p ${work}/image && cd ${work}/bundle && socat -u -b 1048576 TCP-LISTEN:${transferPort},reuseaddr - | tar --extract --directory ${work}/image && CRIU_CONFIG_FILE=${work}/criu.conf runc restore --detach --image-path ${work}/image --work-path ${work}/work bench </dev/null >/dev/null 2>&1 || { tail -n 5 ${work}/work/restore.log >&2; exit 1; }`,
  });
  for (const { host } of [a, b]) {
    await host.exec(["runc", "delete", "--force", "bench"], { reject: false });
    await run(host, `rm -rf ${work}`);
  }
  return measured;
};

export const subjects = { ums, podman, "runc+criu": runcCriu } as const satisfies Record<string, Subject>;

/** Runs both scripts, the destination's first, while a client asks at the source until it falls silent and at the destination until it answers. */
async function betweenAddresses({ hosts, a, b }: Sites, scripts: { source: string; destination: string }): Promise<Measured> {
  const probe = await hosts.wan.spawn([process.execPath, prober, a.host.address, b.host.address, String(redisPort)]);
  await probe.waitForLine(/^ready/, 10_000);
  await sleep(500);
  const waiting = b.host.exec(["bash", "-eo", "pipefail", "-c", scripts.destination], { timeoutMs: 180_000 });
  await sleep(200); // the listener comes up
  const startedAt = performance.now();
  await Promise.all([a.host.exec(["bash", "-eo", "pipefail", "-c", scripts.source], { timeoutMs: 180_000 }), waiting]);
  const totalMs = performance.now() - startedAt;
  const { downtimeMs } = JSON.parse(await probe.waitForLine(/^\{/, 30_000)) as { downtimeMs: number };
  return { downtimeMs, totalMs };
}

async function makeBundle(host: Host): Promise<void> {
  const script = `
mkdir -p ${work}/bundle/rootfs
root=$(podman image mount ${imageReference("redis")})
cp --archive "$root/." ${work}/bundle/rootfs
mkdir -p ${work}/bundle/rootfs/proc ${work}/bundle/rootfs/dev ${work}/bundle/rootfs/sys
podman image unmount ${imageReference("redis")} >/dev/null
echo tcp-close > ${work}/criu.conf # the destination has another address, as in the other subjects
cd ${work}/bundle && runc spec`;
  await host.exec(["sh", "-ec", script]);
  const spec = JSON.parse((await host.exec(["cat", `${work}/bundle/config.json`])).stdout) as {
    process: { terminal: boolean; args: string[]; rlimits: unknown[]; cwd: string };
    linux: { namespaces: { type: string }[]; resources: unknown };
    mounts: { destination: string; type: string; source: string; options?: string[] }[];
  };
  spec.process = { ...spec.process, terminal: false, args: redisCommand, rlimits: [], cwd: "/" };
  spec.linux.namespaces = spec.linux.namespaces.filter(({ type }) => type !== "network");
  // CRIU leaves a bind mount behind at a failed restore, and a removal would go through it.
  Object.assign(spec, { root: { path: "rootfs", readonly: true } });
  spec.mounts = spec.mounts.filter(({ destination }) => !destination.startsWith("/sys"));
  await host.exec(["tee", `${work}/bundle/config.json`], { input: JSON.stringify(spec) });
}

function watchRss(processes: readonly RunningProcess[]): Disposable & { peaksMiB(): number[] } {
  const peaks = processes.map(() => 0);
  const timer = setInterval(() => {
    processes.forEach(({ outerPid }, index) => (peaks[index] = Math.max(peaks[index] ?? 0, rssMiB(outerPid))));
  }, 20);
  return { peaksMiB: () => peaks, [Symbol.dispose]: () => clearInterval(timer) };
}

/** Resident memory of a process in MiB. */
export function rssMiB(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) / 1024;
}

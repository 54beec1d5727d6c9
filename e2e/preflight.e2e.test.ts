/** The preflight on real hosts: each refusal by the thing that causes it. */
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ErrorCode, errorTable } from "../src/errors.ts";
import type { Check } from "../src/preflight/check.ts";
import type { ContainerNeed } from "../src/protocol/container.ts";
import type { CheckAnswer } from "../src/protocol/conversation.ts";
import type { CheckResult } from "../src/protocol/measures.ts";
import { createHosts, type Host, type Hosts, type Inventory, inventoryChanges } from "./hosts.ts";
import { loadImage, runOnce } from "./images.ts";
import type { Call } from "./preflight-calls.ts";

let hosts: Hosts;
let source: Host;
let destination: Host;

const image = "localhost/perl";
const program = new URL("preflight-calls.ts", import.meta.url).pathname;

async function calls(host: Host, requests: Call[]): Promise<unknown[]> {
  const { stdout } = await host.exec(["node", program], { input: JSON.stringify(requests) });
  return JSON.parse(stdout) as unknown[];
}

/** Its own preparation, then a file that says so, then nothing more to do. */
const script = (code: string) => [
  "perl",
  "-e",
  `use Socket; my @keep; sub child { my $p = fork; if (!$p) { shift->(); sleep 1000 } $p } ${code}; open my $r, '>', '/tmp/ready' or die $!; close $r; sleep 1000 while 1`,
];
const listen = (family: string, protocol: number, address: string) =>
  `my $s; socket($s, ${family}, SOCK_STREAM, ${protocol}) and bind($s, sockaddr_in(80, ${address})) and listen($s, 5) or die $!; push @keep, $s`;
const ownAddress = String.raw`inet_aton((map { /^(\S+)\s.*own-address/ ? $1 : () } do { open my $h, '<', '/etc/hosts'; <$h> })[0])`;

type Case = { name: string; options?: string[]; code?: string; bindMounts?: string[]; refused: ErrorCode[]; detail?: RegExp };
const cases: Case[] = [
  {
    name: "plain",
    options: ["--publish", "18080:80", "--volume", "plain-data:/data"],
    code: `${listen("PF_INET", 0, "INADDR_ANY")}; syscall(290, 0, 0); syscall(291, 0); syscall(434, $$, 0); syscall(294, 0); syscall(283, 1, 0); child(sub { exit })`,
    refused: [],
  },
  { name: "other-user", options: ["--user", "998"], refused: [] },
  { name: "bind-mount", options: ["--volume", "/srv:/srv"], refused: ["BIND_MOUNT"], detail: /\/srv/ },
  { name: "named-bind-mount", options: ["--volume", "/srv:/srv"], bindMounts: ["/srv"], refused: [] },
  { name: "terminal", options: ["--tty"], refused: ["UNSUPPORTED_SETTING"], detail: /terminal/ },
  { name: "host-network", options: ["--network", "host"], refused: ["UNSUPPORTED_SETTING"], detail: /network mode is host/ },
  {
    name: "device",
    options: ["--device", "/dev/fuse"],
    code: "open my $f, '+<', '/dev/fuse' or die $!; push @keep, $f",
    refused: ["UNSUPPORTED_SETTING", "UNSUPPORTED_RESOURCE"],
    detail: /\/dev\/fuse/,
  },
  { name: "shares-1", options: ["--volume", "shared:/data"], refused: ["VOLUME_SHARED"], detail: /shares-2/ },
  { name: "shares-2", options: ["--volume", "shared:/data"], refused: ["VOLUME_SHARED"], detail: /shares-1/ },
  { name: "strange-volume", options: ["--volume", "strange:/data"], refused: ["VOLUME_UNSUPPORTED"], detail: /strange/ },
  { name: "unit", options: ["--label", "PODMAN_SYSTEMD_UNIT=web.service"], refused: ["SYSTEMD_UNIT"], detail: /web\.service/ },
  // As Podman's own generators of units make them.
  {
    name: "quadlet",
    options: ["--rm", "--replace", "--sdnotify", "conmon", "--label", "PODMAN_SYSTEMD_UNIT=quadlet.service"],
    refused: ["SYSTEMD_UNIT", "UNSUPPORTED_SETTING"],
    detail: /quadlet\.service|--rm/,
  },
  { name: "in-pod", options: ["--pod", "group"], refused: ["PODMAN_POD"], detail: /pod [0-9a-f]{12}\.$/ },
  { name: "silent", options: ["--log-driver", "none"], refused: [] },
  { name: "passthrough", options: ["--log-driver", "passthrough"], refused: ["LOG_DRIVER"], detail: /passthrough/ },
  { name: "multipath", code: listen("PF_INET", 262, "INADDR_ANY"), refused: ["UNSUPPORTED_RESOURCE"], detail: /MPTCP/ },
  {
    name: "own-address",
    options: ["--hostname", "own-address"],
    code: listen("PF_INET", 0, ownAddress),
    refused: ["ADDRESS_BOUND"],
    detail: /:80\/tcp/,
  },
  { name: "loopback", code: listen("PF_INET", 0, "INADDR_LOOPBACK"), refused: [] },
  {
    name: "outside-socket",
    options: ["--volume", "/run/outside:/outside"],
    bindMounts: ["/run/outside"],
    code: "my $s; socket($s, PF_UNIX, SOCK_STREAM, 0) and connect($s, sockaddr_un('/outside/socket')) or die $!; push @keep, $s",
    refused: ["UNSUPPORTED_RESOURCE"],
    detail: /unix socket/,
  },
  {
    name: "queue",
    code: "my $q = 'q'; syscall(240, $q, 66, 0600, 0) >= 0 or die $!",
    refused: ["UNSUPPORTED_RESOURCE"],
    detail: /holds \/q/,
  },
  {
    name: "perf",
    options: ["--cap-add", "PERFMON,SYS_ADMIN"],
    code: 'my $b = pack("LL", 1, 128) . ("\\0" x 120); syscall(298, $b, 0, -1, -1, 0) >= 0 or die $!',
    refused: ["UNSUPPORTED_RESOURCE"],
    detail: /perf_event/,
  },
  {
    name: "nested",
    options: ["--cap-add", "SYS_ADMIN"],
    code: "syscall(272, 0x20000000) == 0 or die $!; child(sub { })",
    refused: ["UNSUPPORTED_RESOURCE"],
    detail: /pid namespace/,
  },
  {
    name: "traced",
    code: "child(sub { syscall(101, 0, 0, 0, 0) }); select(undef, undef, undef, 0.2)",
    refused: ["UNSUPPORTED_RESOURCE"],
    detail: /traced/,
  },
  { name: "stopped", code: "kill 'STOP', child(sub { })", refused: ["UNSUPPORTED_RESOURCE"], detail: /SIGSTOP/ },
];
/** System calls above are numbered as on x86. */
const machineCases = process.arch === "x64" ? cases : cases.filter(({ code }) => !code?.includes("syscall"));

beforeAll(async () => {
  hosts = await createHosts();
  [source, destination] = hosts.hosts;
  const base = await loadImage(source, "base");
  await runOnce(source, base);
  await runOnce(destination, await loadImage(destination, "base"));
  await source.podman(["create", "--name", "maker", base]);
  const { stdout: libraries } = await source.exec([
    "perl",
    "-e",
    'print join "\\n", grep { m{/perl-base$} } @INC; print "\\n", `ldd /usr/bin/perl` =~ m{(/\\S*libcrypt\\S*)}',
  ]);
  for (const file of ["/usr/bin/perl", ...libraries.split("\n").filter(Boolean)]) await source.podman(["cp", file, `maker:${file}`]);
  await source.podman(["commit", "--quiet", "maker", image]);
  await source.podman(["rm", "maker"]);
  await source.podman(["volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "strange"]);
  const outside =
    "use Socket; mkdir '/run/outside'; socket(my $s, PF_UNIX, SOCK_STREAM, 0); bind($s, sockaddr_un('/run/outside/socket')); listen($s, 5); $| = 1; print qq(listens\\n); accept(my $c, $s); sleep 1000 while 1";
  await (await source.spawn(["perl", "-e", outside])).waitForLine(/listens/);
  await source.podman(["create", "--name", "never-ran", image, "true"]);
  await source.podman(["pod", "create", "--infra=false", "group"]);
  const started: Pick<Case, "name" | "options" | "code">[] = [...machineCases, { name: "paused" }];
  for (let at = 0; at < started.length; at += 4) {
    await Promise.all(
      started
        .slice(at, at + 4)
        .map(({ name, options = [], code = "" }) => source.podman(["run", "--detach", "--name", name, ...options, image, ...script(code)])),
    );
  }
  await Promise.all(started.map(({ name }) => isReady(name)));
  await source.podman(["pause", "paused"]);
});
afterAll(() => hosts[Symbol.asyncDispose]());

const failing = (checks: readonly CheckResult[]) => checks.filter(({ ok }) => !ok);
const codes = (checks: readonly CheckResult[]) => failing(checks).map(({ code }) => code);

describe("a service", () => {
  test("is refused for what can't be moved, each with its code, what was found, and a cure; and nothing changes", async () => {
    await calls(source, []);
    const before = await inventoryOf(source);
    const answers = (await calls(source, [
      ...machineCases.map(({ name, bindMounts }): Call => ({ call: "service", name, ...(bindMounts ? { bindMounts } : {}) })),
      { call: "service", name: "never-ran" },
      { call: "service", name: "paused" },
    ])) as CheckResult[][];
    expect(inventoryChanges(before, await inventoryOf(source))).toEqual([]);

    for (const [index, { name, refused, detail }] of machineCases.entries()) {
      const found = failing(answers[index] ?? []);
      expect({ name, codes: found.map(({ code }) => code) }, JSON.stringify(found)).toEqual({ name, codes: refused });
      for (const { code, detail: said } of found) {
        expect(errorTable[code as ErrorCode].cure).not.toBe("");
        if (detail) expect(said).toMatch(detail);
      }
    }
    expect(answers.slice(-2).map((checks) => codes(checks))).toEqual([["SERVICE_NOT_RUNNING"], ["SERVICE_NOT_RUNNING"]]);
  });

  test("of a unit can be moved when its cure was followed", async () => {
    const { stdout } = await source.podman(["inspect", "--format", "{{json .Config.CreateCommand}}", "quadlet"]);
    await source.podman(["rm", "--force", "--time", "0", "quadlet"]);
    const made = JSON.parse(stdout) as string[];
    const without = ["--rm", "--replace", "--sdnotify", "conmon", "--label", "PODMAN_SYSTEMD_UNIT=quadlet.service"];
    const [, ...command] = made.filter((word) => !without.includes(word));
    await source.podman(command);
    await isReady("quadlet");
    const [checks] = (await calls(source, [{ call: "service", name: "quadlet" }])) as [CheckResult[]];
    expect(failing(checks)).toEqual([]);
  });

  test("that runs here has a line of the doctor's: that it could move, or why not; the same as its plan says", async () => {
    const named = machineCases.filter(({ bindMounts }) => !bindMounts);
    const [lines, ...services] = (await calls(source, [
      { call: "containers", migrating: "loopback" },
      ...[...named, { name: "paused" }].map(({ name }): Call => ({ call: "service", name })),
    ])) as [Check[], ...CheckResult[][]];
    const lineOf = (name: string) => lines.find((line) => line.name === `container ${name}`);
    for (const [index, { name }] of [...named, { name: "paused" }].entries()) {
      if (name === "loopback") continue;
      const [refused] = failing(services[index] ?? []);
      expect(lineOf(name), name).toMatchObject(
        refused ? { ok: false, code: refused.code, found: refused.detail, cure: errorTable[refused.code as ErrorCode].cure } : { ok: true },
      );
    }
    expect(lineOf("plain")?.notes?.join()).toContain("127.0.0.1");
    expect(lineOf("loopback")).toMatchObject({ ok: false, code: "ALREADY_MIGRATING", found: expect.stringContaining("0123456789ab") });
    expect(lineOf("never-ran")).toBeUndefined();
    expect(lines.map(({ name }) => name)).toEqual(lines.map(({ name }) => name).toSorted());
  });

  test("that uses io_uring is refused", async (context) => {
    const ring = 'my $b = "\\0" x 200; syscall(425, 4, $b) >= 0 or die $!';
    await source.podman(["run", "--detach", "--name", "ring", "--security-opt", "seccomp=unconfined", image, ...script(ring)]);
    const { stdout } = await source.podman(["ps", "--filter", "name=ring", "--format", "{{.State}}"]);
    if (!stdout.startsWith("running")) context.skip("this kernel has no io_uring");
    const [checks] = (await calls(source, [{ call: "service", name: "ring" }])) as [CheckResult[]];
    expect(codes(checks)).toEqual(["IO_URING"]);
  });

  test("that an unknown runtime started, that writes past its engine's logs, or that belongs to a pod is refused with its cure", async () => {
    await source.exec(["ln", "-s", "/usr/sbin/runc", "/run/other-runtime"]);
    await source.podman(["--runtime", "/run/other-runtime", "run", "--detach", "--name", "other", image, ...script("")]);
    await source.podman(["run", "--detach", "--log-driver", "passthrough", "--name", "past", image, ...script("")]);
    await source.podman(["pod", "create", "--infra=false", "--name", "pod"]);
    await source.podman(["run", "--detach", "--pod", "pod", "--name", "podded", image, ...script("")]);
    const names = ["other", "past", "podded"];
    const answers = (await calls(
      source,
      names.map((name) => ({ call: "service" as const, name })),
    )) as CheckResult[][];
    expect(answers.map((checks) => codes(checks))).toEqual([["RUNTIME_NOT_RUNC"], ["LOG_DRIVER"], ["PODMAN_POD"]]);
    // What the cure says: outside of the pod, in a network that they share.
    await source.podman(["network", "create", "together"]);
    await source.podman(["run", "--detach", "--network", "together", "--name", "alone", image, ...script("")]);
    const [checks] = (await calls(source, [{ call: "service", name: "alone" }])) as [CheckResult[]];
    expect(codes(checks)).toEqual([]);
  });
});

describe("a destination", () => {
  let need: ContainerNeed;

  beforeAll(async () => {
    [need] = (await calls(source, [{ call: "need", name: "plain" }])) as [ContainerNeed];
    expect(need.uids).toEqual([0]);
    expect(need.memoryBytes).toBeGreaterThan(100_000);
    expect(need.volumes).toEqual([{ name: "plain-data", labels: {} }]);
    expect(need.cpuFeatures.length).toBeGreaterThan(5);
  });

  test("takes what fits, is told how many bytes of the image are missing, and is not changed by the question", async () => {
    await calls(destination, []);
    const before = await inventoryOf(destination);
    const [answer] = (await calls(destination, [{ call: "destination", need }])) as [CheckAnswer];
    expect(failing(answer.checks)).toEqual([]);
    // It has the base, so only perl is missing.
    expect(answer.imageBytes).toBeGreaterThan(1_000_000);
    expect(answer.imageBytes).toBeLessThan(need.image.sizeBytes / 2);
    expect(inventoryChanges(before, await inventoryOf(destination))).toEqual([]);
  });

  test("refuses what it can't give, each with its code", async () => {
    await destination.podman(["create", "--name", "plain", "localhost/ums-e2e/base:latest", "true"]);
    await destination.podman(["volume", "create", "plain-data"]);
    const holder = await destination.spawn([
      "perl",
      "-e",
      "use Socket; socket(my $s, PF_INET, SOCK_STREAM, 0); bind($s, sockaddr_in(18080, INADDR_ANY)); listen($s, 1); $| = 1; print qq(listens\\n); sleep 1000",
    ]);
    await holder.waitForLine(/listens/);
    const { spec } = need;
    const other: ContainerNeed = { ...need, volumes: [], spec: { ...spec, name: "other", ports: [], volumes: [] } };
    const foreign: ContainerNeed = { ...other, spec: { ...other.spec, volumes: spec.volumes } };
    const health = { test: ["CMD", "true"], intervalNs: 30e9, timeoutNs: 30e9, startPeriodNs: 0, retries: 3, onFailure: "none" };
    // As many refusals in one answer as don't stand in each other's way.
    const everything: ContainerNeed = {
      ...need,
      memoryBytes: 2 ** 50,
      fileBytes: 2 ** 50,
      kernel: "99.1.0",
      cpuFeatures: [...need.cpuFeatures, "quantum"],
      cgroupVersion: need.cgroupVersion === 1 ? 2 : 1,
      spec: {
        ...spec,
        networks: { backend: { aliases: [] } },
        binds: [{ source: "/no/such", destination: "/x", options: [], readOnly: false }],
        securityOptions: ["seccomp=/no/such.json", "apparmor=ums-no-such"],
        limits: { ...spec.limits, cpusetCpus: "4000" },
        ulimits: [{ name: "RLIMIT_NOFILE", soft: 1024, hard: 2 ** 31 }],
        health,
      },
    };
    const wanted: [ContainerNeed, ErrorCode[], object?][] = [
      [
        everything,
        [
          ...([
            "POLICY",
            "NAME_TAKEN",
            "PORT_TAKEN",
            "VOLUME_EXISTS",
            "NETWORK_MISSING",
            "BIND_MOUNT_MISSING",
            "SECCOMP_PROFILE_MISSING",
            "APPARMOR_PROFILE_MISSING",
          ] as const),
          ...(["NO_ROOM", "NO_DISK", "CGROUP_LIMIT", "ULIMIT", "HEALTHCHECK_TIMER"] as const),
          ...(["KERNEL_OLDER", "CPU_FEATURES", "CGROUP_VERSION"] as const),
        ],
      ],
      [
        { ...other, spec: { ...other.spec, ports: [{ hostIp: "192.0.2.1", hostPort: 80, containerPort: 80, protocol: "tcp" }] } },
        ["ADDRESS_MISSING"],
      ],
      // The disk has room for the image, and the memory none for the service.
      [{ ...other, memoryBytes: await memoryTotal(destination) }, ["NO_MEMORY"], { imageDirectories: ["/var/lib/ums/images"] }],
      [other, ["CRIU_TOO_OLD"], { criuPath: "/no/such/criu" }],
      // A volume of another service.
      [foreign, ["BAD_REQUEST"]],
      [other, []],
    ];
    const answers = (await calls(
      destination,
      wanted.map(([each, , config]) => ({ call: "destination", need: each, ...(config ? { config } : {}) })),
    )) as CheckAnswer[];
    expect(answers.map(({ checks }) => codes(checks))).toEqual(wanted.map(([, expected]) => expected));
  });
});

describe("a host", () => {
  test("is told what it lacks, with the cure; and a CRIU that can't dump is found by trying", async () => {
    const broken = "/var/lib/ums/broken-criu";
    await destination.exec(["tee", broken], { input: '#!/bin/sh\n[ "$1" = --version ] && echo "Version: 9.9" && exit\nexit 1\n' });
    await destination.exec(["chmod", "+x", broken]);
    const [fit, ...lacking] = (await calls(destination, [
      { call: "site" },
      { call: "site", config: { criuPath: broken } },
      { call: "site", config: { runcPath: "/no/such" } },
      { call: "site", config: { shimPath: "/usr/sbin/runc" } },
      { call: "site", config: { stateDirectory: "/run/state" } },
      { call: "site", config: { podmanSocket: "/run/no-podman.sock" } },
      { call: "site", config: { imageDirectories: ["/proc/images"] } },
    ])) as Check[][];
    expect(fit?.filter(({ ok }) => !ok)).toEqual([]);
    expect(lacking.map((checks) => checks.filter(({ ok }) => !ok).map(({ code }) => code))).toEqual([
      ["CRIU_PROBE_FAILED"],
      ["RUNC_TOO_OLD"],
      ["SHIM_MISSING"],
      ["HOOK_MISSING", "STATE_DIRECTORY"],
      ["PODMAN_UNREACHABLE"],
      ["IMAGE_DIRECTORY"],
    ]);
    for (const { ok, cure } of lacking.flat()) expect(ok || (cure ?? "") !== "").toBe(true);
  });
});

/** Without the time since which containers run. */
async function inventoryOf(host: Host): Promise<Inventory> {
  const inventory = await host.inventory();
  return { ...inventory, containers: inventory.containers.map((line) => line.replace(/ Up .*/, " Up")) };
}

/** The script's file, looked for beneath Podman: an exec would cost much more. */
async function isReady(name: string): Promise<void> {
  const { stdout: changes } = await source.podman(["inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", name]);
  for (const until = Date.now() + 10_000; Date.now() < until; await sleep(50))
    if (existsSync(source.path(`${changes.trim()}/tmp/ready`))) return;
  const { stdout, stderr } = await source.podman(["logs", name], { reject: false });
  throw new Error(`container ${name} did not get ready: ${stdout}${stderr}`);
}

async function memoryTotal(host: Host): Promise<number> {
  const { stdout } = await host.exec(["cat", "/proc/meminfo"]);
  return Number(/^MemTotal:\s+(\d+)/m.exec(stdout)?.[1]) * 1024;
}

/** The destination's container is the source's twin, as the engine itself describes them. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { imageReference } from "./images.ts";
import { createSites, type Sites, type TestSite } from "./sites.ts";

let sites: Sites;
beforeAll(async () => {
  const accept = { bindMounts: ["/etc/ums-twin"], capabilities: ["CAP_NET_ADMIN"] };
  sites = await createSites({ configuration: { accept } });
});
afterAll(() => sites[Symbol.asyncDispose]());

const settings = [
  ["--env", "PLAIN=1"],
  ["--env", "WITH_EQUALS=a=b c"],
  ["--env", "EMPTY="],
  ["--user", "999:998"],
  ["--group-add", "2001", "--group-add", "2000"],
  ["--workdir", "/var/lib/redis"],
  ["--hostname", "twin.example.org"],
  ["--label", "team=moving", "--label", "with.blanks=one two"],
  ["--annotation", "example.org/note=one,two=three"],
  ["--memory", "256m", "--memory-swap", "512m", "--memory-reservation", "128m"],
  ["--cpu-shares", "512", "--cpu-period", "50000", "--cpu-quota", "25000", "--cpuset-cpus", "0"],
  ["--pids-limit", "123", "--oom-score-adj", "123"],
  // Podman asks for more processes than these machines may have where none of the three is given.
  ["--ulimit", "nofile=1000:2000", "--ulimit", "nproc=2000:3000", "--ulimit", "core=0:0"],
  ["--publish", "8080:80", "--publish", "127.0.0.1:8081:81", "--publish", "8053:53/udp"],
  ["--volume", "plain:/data", "--volume", "guarded:/guarded:ro,nosuid,nodev"],
  ["--volume", "/etc/ums-twin:/config:ro"],
  ["--tmpfs", "/scratch:size=16m,mode=1777,noexec"],
  ["--shm-size", "8m"],
  ["--restart", "on-failure:3"],
  ["--health-cmd", "test -e /scratch/file", "--health-interval", "disable", "--health-timeout", "7s", "--health-retries", "2"],
  ["--health-start-period", "3s", "--health-on-failure", "kill"],
  ["--stop-signal", "SIGUSR1", "--stop-timeout", "3"],
  ["--dns", "192.0.2.53", "--dns-search", "example.org", "--dns-option", "ndots:2", "--add-host", "db.example.org:192.0.2.9"],
  ["--network", "ums-twin", "--network-alias", "twin-alias"],
  ["--sysctl", "net.core.somaxconn=512", "--sysctl", "kernel.shm_rmid_forced=1"],
  ["--cap-add", "NET_ADMIN", "--cap-drop", "MKNOD", "--cap-drop", "CHOWN"],
  ["--security-opt", "no-new-privileges", "--security-opt", "seccomp=/etc/ums-twin/seccomp.json"],
  ["--read-only", "--init"],
  ["--log-opt", "max-size=1mb"],
  ["--tz", "Europe/Berlin"],
  ["--umask", "0027"],
  [
    "--entrypoint",
    JSON.stringify(["sh", "-c", 'echo "$0" "$@" >/dev/shm/arguments; date >/scratch/file; exec sleep infinity', "the program's name"]),
  ],
].flat();

type Fields = ReadonlyMap<string, unknown>;

const byText = (one: unknown, other: unknown) => (keyOf(one) < keyOf(other) ? -1 : 1);
const keyOf = (value: unknown) =>
  value !== null && typeof value === "object" && "Name" in value ? String(value.Name) : JSON.stringify(value);

/** Every field of what the engine tells, by its path. */
async function fieldsOf({ host }: TestSite): Promise<Fields> {
  const [described] = JSON.parse((await host.podman(["inspect", "twin"])).stdout) as [{ HostConfig: { Binds: string[] } }];
  described.HostConfig.Binds = described.HostConfig.Binds.map((bind) => bind.split(/[:,]/).toSorted().join(" "));
  const fields = new Map<string, unknown>();
  const visit = (path: string, value: unknown) => {
    if (value === null || typeof value !== "object" || Object.keys(value).length === 0) return void fields.set(path, value);
    const ordered = Array.isArray(value) && !/\/?(Args|Cmd|Test)$/.test(path) ? value.toSorted(byText) : value;
    for (const [key, inner] of Object.entries(ordered)) visit(path === "" ? key : `${path}/${key}`, inner);
  };
  visit("", described);
  return fields;
}

/** What is of the host and the moment, not of the service. */
const ofTheHost = [
  /^(Id|Created|OCIRuntime|OCIConfigPath|PidFile|ConmonPidFile|ResolvConfPath|HostnamePath|HostsPath|StaticDir|ImageDigest)$/,
  /^State\/(Pid|ConmonPid|StartedAt|CgroupPath|PidFile|ConmonPidFile)$/,
  /^State\/(Health|Healthcheck)\//,
  /^State\/(FinishedAt|CheckpointedAt|RestoredAt)$/,
  // What an undo may remove bears its migration's id.
  /^Config\/Annotations\/ums\.dev\/arrival$/,
  // Nobody waits for a twin's word that it is ready.
  /^Config\/sdNotifyMode$/,
  // The default alias is the id; the command line that made it was no command line at the destination.
  /^NetworkSettings\/Networks\/ums-twin\/Aliases\/\d$/,
  /^Config\/(CreateCommand\/|Annotations\/io\.kubernetes\.cri-o\.(Created|TTY)$)/,
  /^GraphDriver\/Data\//,
  /^HostConfig\/(ContainerIDFile|LogConfig\/Path)$/,
  /^NetworkSettings\/(SandboxID|SandboxKey|EndpointID|IPAddress|MacAddress|Gateway)$/,
  /^NetworkSettings\/Networks\/[^/]+\/(NetworkID|EndpointID|IPAddress|MacAddress|Gateway)$/,
];

test("every setting of a container is carried to its twin", async () => {
  const { a, b } = sites;
  for (const { host } of [a, b]) {
    await host.podman(["network", "create", "ums-twin"]);
    await host.exec(["mkdir", "-p", "/etc/ums-twin"]);
    await host.exec(["cp", "/usr/share/containers/seccomp.json", "/etc/ums-twin/seccomp.json"]);
  }
  await a.host.podman(["run", "--detach", "--name", "twin", ...settings, imageReference("redis"), "one", "two words", ""]);
  const inside = async ({ host }: TestSite, script: string) => (await host.podman(["exec", "twin", "sh", "-c", script])).stdout;
  /** The settings as the service itself meets them. */
  const seen = async (site: TestSite) => ({
    files: await inside(site, "cat /dev/shm/arguments /scratch/file /etc/resolv.conf /etc/localtime | sha256sum"),
    process: await inside(site, "id; umask; pwd; uname -n; cat /proc/sys/net/core/somaxconn /proc/1/limits"),
    environment: (await inside(site, "cat /proc/1/environ; echo; env")).split(/[\0\n]/).toSorted(),
    credentials: (await inside(site, "cat /proc/1/status /proc/self/status"))
      .split("\n")
      .filter((line) => /^(Cap|NoNewPrivs|Seccomp|Groups|Uid|Gid)/.test(line)),
    mounts: (await inside(site, "cat /proc/self/mountinfo"))
      .split("\n")
      .map((line) => line.split(" ").slice(4, 6).join(" "))
      // Podman hides some files of /proc behind /dev/null; with which options doesn't matter.
      .filter((mount) => !mount.startsWith("/proc/"))
      .toSorted(),
    // The container's own, of each hierarchy, and nothing of the host's.
    groups: (await inside(site, "cat /proc/self/mountinfo"))
      .split("\n")
      .filter((line) => / - cgroup2? /.test(line))
      .map((line) =>
        line
          .split(" ")
          .slice(3, 5)
          .join(" ")
          .replace(/[0-9a-f]{64}/, "ID"),
      )
      .toSorted(),
    hosts: (await inside(site, "cat /etc/hosts")).split("\n").filter((line) => !line.includes("twin")),
  });
  await expect.poll(() => inside(a, "cat /scratch/file /dev/shm/arguments")).toContain("two words");
  const [source, before] = [await fieldsOf(a), await seen(a)];

  const { exitCode, stdout, stderr } = await a.ums(["migrate", "twin", "--to", b.name, "--bind-mount", "/etc/ums-twin"]);
  expect(exitCode, stdout + stderr).toBe(0);

  const twin = await fieldsOf(b);
  const differing = [...new Set([...source.keys(), ...twin.keys()])]
    .filter((path) => JSON.stringify(source.get(path)) !== JSON.stringify(twin.get(path)))
    .filter((path) => !ofTheHost.some((pattern) => pattern.test(path)))
    .map((path) => `${path}: ${JSON.stringify(source.get(path))} became ${JSON.stringify(twin.get(path))}`);
  expect(differing).toEqual([]);
  expect(await seen(b)).toEqual(before);
  // And it goes back, so that what a twin is can be described as well as what a person has made.
  const back = await b.ums(["migrate", "twin", "--to", a.name, "--bind-mount", "/etc/ums-twin"]);
  expect(back.exitCode, back.stdout + back.stderr).toBe(0);
  expect(await seen(a)).toEqual(before);
});

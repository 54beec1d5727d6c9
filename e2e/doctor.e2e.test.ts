/** `ums doctor` on a real host: what it says of new containers is what their plans say, and what a machine costs is a note. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { isAtLeast } from "../src/machine/version.ts";
import { type Check, verdictOf } from "../src/preflight/check.ts";
import type { CheckResult } from "../src/protocol/measures.ts";
import { createHosts, type Host, type Hosts, inventoryChanges } from "./hosts.ts";
import { loadImage, runOnce } from "./images.ts";
import type { Call } from "./preflight-calls.ts";

let hosts: Hosts;
let host: Host;
let image: string;

beforeAll(async () => {
  hosts = await createHosts();
  [host] = hosts.hosts;
  image = await loadImage(host, "base");
  await runOnce(host, image);
});
afterAll(() => hosts[Symbol.asyncDispose]());

async function preflightCalls(of: Host, requests: Call[]): Promise<unknown[]> {
  const { stdout } = await of.exec(["node", new URL("preflight-calls.ts", import.meta.url).pathname], { input: JSON.stringify(requests) });
  return JSON.parse(stdout) as unknown[];
}
const lineOf = (lines: readonly Check[], name: string) => lines.find((line) => line.name === name);
const verdicts = (checks: readonly CheckResult[], name: string) => checks.filter((each) => each.name === name).map(verdictOf);

test("says of a container that somebody makes without a word about runtime and log what its plan will say", async () => {
  const settings = {
    "its own": "",
    "a runtime that nobody knows": `[engine]\nruntime = "strange"\n[engine.runtimes]\nstrange = ["${(await host.exec(["which", "runc"])).stdout.trim()}"]\n`,
    passthrough: '[containers]\nlog_driver = "passthrough"\n',
  };
  const seen: string[] = [];
  for (const [what, text] of Object.entries(settings)) {
    await host.exec(["mkdir", "-p", "/etc/containers/containers.conf.d"]);
    await host.exec(["tee", "/etc/containers/containers.conf.d/zz-default.conf"], { input: text });
    await host.podman(["run", "--detach", "--name", "by-default", image, "sleep", "1000"]);
    const [lines, service] = (await preflightCalls(host, [{ call: "doctor" }, { call: "service", name: "by-default" }])) as [
      Check[],
      CheckResult[],
    ];
    await host.podman(["rm", "--force", "--time", "0", "by-default"]);
    await host.exec(["rm", "/etc/containers/containers.conf.d/zz-default.conf"]);
    for (const [line, check] of [
      ["Runtime of new containers", "runtime"],
      ["Log driver of new containers", "log"],
    ] as const) {
      const found = lineOf(lines, line);
      expect(found, `${what}: ${line}`).toMatchObject({ ok: true });
      const [planned] = verdicts(service, check);
      expect(verdictOf(found!) === "note", `${what}: ${line}: ${JSON.stringify(found)}`).toBe(planned === "refused");
      seen.push(String(planned));
    }
  }
  expect(seen).toContain("ok");
  expect(seen).toContain("refused");
});

test("tells what this machine costs, and changes nothing; a plan is not burdened with that", async () => {
  await host.podman(["create", "--name", "comes-back", "--restart", "always", image, "true"]);
  await host.podman(["create", "--name", "of-a-unit", "--restart", "always", "--label", "PODMAN_SYSTEMD_UNIT=web.service", image, "true"]);
  await preflightCalls(host, []);
  const before = await host.inventory();
  const [lines, site] = (await preflightCalls(host, [{ call: "doctor" }, { call: "site" }])) as [Check[], Check[]];
  expect(inventoryChanges(before, await host.inventory())).toEqual([]);
  expect(lines.filter(({ ok }) => !ok)).toEqual([]);
  expect(site.flatMap(({ notes = [] }) => notes)).toEqual([]);
  expect(lines).toEqual(expect.arrayContaining(site));
  const restarts = lineOf(lines, "Restart after a reboot");
  expect(restarts?.notes?.join()).toContain("Nothing starts comes-back after a reboot");
  expect(restarts?.notes?.join()).not.toContain("of-a-unit");
  const { stdout: criu } = await host.exec(["/opt/ums/criu/criu", "--version"]);
  expect(verdictOf(lineOf(lines, "Owners of pipes")!)).toBe(isAtLeast(criu, "4.3") ? "ok" : "note");
  // The kernel's own word: the bit is there only where it was built in.
  const { stdout: config } = await host.exec(["sh", "-c", "zcat /proc/config.gz 2>/dev/null || cat /boot/config-$(uname -r)"], {
    reject: false,
  });
  if (config !== "")
    expect(lineOf(lines, "Tracking of changed memory")?.found).toContain(
      `soft-dirty: ${config.includes("CONFIG_MEM_SOFT_DIRTY=y") ? "yes" : "no"}`,
    );
  const open = await host.exec(["perl", "-e", 'my $b = "\\0" x 120; exit(syscall(425, 1, $b) >= 0 ? 0 : 1)'], { reject: false });
  expect(/^the kernel/.test(lineOf(lines, "io_uring")?.found ?? "")).toBe(open.exitCode !== 0);
  await host.podman(["rm", "comes-back", "of-a-unit"]);
});

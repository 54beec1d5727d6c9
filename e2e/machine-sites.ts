/** Stock machines that became sites by what docs/hosts.md says, as a person would type it. */
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { makePackage } from "../setup/package.ts";
import { imageLayout } from "./images.ts";
import type { StockMachine, StockMachines } from "./stock-machine.ts";
import { type UmsCommand, umsCommand } from "./ums-command.ts";

/** A machine with UMS on it. */
export type MachineSite = UmsCommand & Readonly<{ machine: StockMachine; name: string }>;

/** A line that a person types: at which of the two machines of the text, or at each. */
export type TypedLine = Readonly<{ at: "a" | "b" | "each"; line: string }>;

/**
 * What docs/hosts.md has a person type below a heading: all lines of its code blocks, or, in blocks that show answers too, those after a prompt
 * (`a# ` or `b# `).
 */
export function typedLines(markdown: string, heading: string): TypedLine[] {
  const from = markdown.indexOf(`\n${heading}\n`);
  if (from < 0) throw new Error(`docs/hosts.md has no heading “${heading}”.`);
  const level = heading.indexOf(" ");
  const rest = markdown.slice(from + heading.length + 2);
  const next = new RegExp(`^#{1,${level}} `, "m").exec(rest.replace(/^```[^]*?^```$/gm, (block) => block.replaceAll("#", "x")));
  const blocks = rest.slice(0, next?.index).matchAll(/^```\w*\n([^]*?)^```$/gm);
  return [...blocks].flatMap(([, block = ""]): TypedLine[] => {
    const lines = block
      .replaceAll(/\\\n\s*/g, "")
      .split("\n")
      .filter(Boolean);
    const typed = lines.map((text) => /^(a|b)# (.*)$/.exec(text)).filter((match) => match !== null);
    if (typed.length === 0) return lines.map((line) => ({ at: "each", line }));
    return typed.map(([, at, line = ""]) => ({ at: at === "a" ? "a" : "b", line }));
  });
}

/** @returns what docs/hosts.md has a person type below a heading */
export function typedInDocs(heading: string): TypedLine[] {
  return typedLines(readFileSync(new URL("../docs/hosts.md", import.meta.url), "utf8"), heading);
}

/** Puts UMS's own package where a person would have it: beside them. */
export async function bringPackage({ a, b }: Pick<StockMachines, "a" | "b">): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "ums-test-"));
  try {
    const made = await makePackage({ architecture: "amd64", directory, compression: "quick" });
    await Promise.all([a, b].map((machine) => machine.copyIn(made, `/root/${basename(made)}`)));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** `ums` on a machine where it is installed. */
export function machineSite(machine: StockMachine): MachineSite {
  return {
    machine,
    name: machine.name,
    ...umsCommand((args, { timeoutMs }) => machine.exec(["ums", ...args], { timeoutMs, reject: false })),
  };
}

/** Gives a machine the image of a Redis under that name, as if it had been pulled. */
export async function loadRedisInto(machine: StockMachine, reference: string): Promise<void> {
  await machine.copyIn(await imageLayout("redis"), "/root/redis");
  const { stdout } = await machine.podman(["pull", "--quiet", "oci:/root/redis"]);
  await machine.podman(["tag", stdout.trim(), reference]);
  // Podman 4 names the image after that path, Podman 5 does not.
  await machine.podman(["untag", stdout.trim(), "localhost/root/redis"], { reject: false });
  await machine.exec(["rm", "-r", "/root/redis"]);
}

/** What a container is in, as its machine's kernel and its engine tell. */
export type Standing = Readonly<{
  /** That the process and all its children are in. */ groups: readonly string[];
  /** The engine's name for the container's own group. */ scope: string;
  scopeState: string;
  limits: Readonly<{ memory: string; cpu: string; pids: string }>;
  /** What `podman stats` says of memory and processes. */ stats: string;
  /** What was seen while it was paused, and after. */ paused: string;
  answer: string;
  /** The last lines, with what was said for this. */ logs: string;
}>;

/** Looks at a container, and works with it as a person does. */
export async function standingOf(machine: StockMachine, name: string): Promise<Standing> {
  const script = `set -e
id=$(podman inspect --format '{{.Id}}' "$1") pid=$(podman inspect --format '{{.State.Pid}}' "$1")
scope=libpod-$id.scope group=/sys/fs/cgroup/machine.slice/$scope
say() { printf '%s\\0' "$1"; }
say "$(sort -u /proc/$pid/cgroup $(for child in $(pgrep -P $pid); do echo /proc/$child/cgroup; done))"
say "$scope"
say "$(systemctl is-active "$scope" || :)"
for limit in memory.max cpu.max pids.max; do say "$(cat $group/$limit 2>&1 || :)"; done
say "$(podman stats --no-stream --no-reset --format '{{.MemUsage}} {{.PIDs}}' "$1" 2>&1)"
say "$(podman pause "$1" >/dev/null 2>&1 && podman inspect --format '{{.State.Status}}' "$1" && podman unpause "$1" >/dev/null && podman inspect --format '{{.State.Status}}' "$1" 2>&1)"
say "$(podman exec "$1" redis-cli ping 2>&1)"
podman exec "$1" sh -c 'echo "said at $0" >/proc/1/fd/1' "$(hostname)"
sleep 1
say "$(podman logs --tail 20 "$1" 2>&1)"
`;
  const { stdout } = await machine.exec(["bash", "-c", script, "bash", name]);
  const [groups = "", scope = "", scopeState = "", memory = "", cpu = "", pids = "", stats = "", paused = "", answer = "", logs = ""] =
    stdout.split("\0");
  return { groups: groups.split("\n"), scope, scopeState, limits: { memory, cpu, pids }, stats, paused, answer, logs };
}

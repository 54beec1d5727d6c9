/**
 * What CRIU can really do here: `criu check` passes on hosts where every dump of a TCP socket fails
 * (CRIU 4.1.1 on Linux 6.16 and newer), so a small process is dumped and restored, once as root and once as another user.
 */
import { readFile, stat } from "node:fs/promises";
import { release } from "node:os";
import { execa } from "execa";
import { criuSettings } from "../checkpoint/criu.ts";
import { bootId } from "../machine/boot-id.ts";

/** `undefined` where it works, else CRIU's own words. */
export type Abilities = Readonly<{ dumpsTcp: string | undefined; dumpsOtherUsers: string | undefined }>;

const timeoutMs = 25_000; // the probe's own alarm comes first
const trustedForMs = 10 * 60_000;
const nobody = 65_534;

let known: { key: string; until: number; abilities: Promise<Abilities> } | undefined;

/** Tries it, or answers with what was found a few minutes ago with the same CRIU file on the same boot. */
export async function criuAbilities(criu: string, signal: AbortSignal): Promise<Abilities> {
  const [{ mtimeMs, ino }, boot] = await Promise.all([stat(criu), bootId()]);
  const key = [criu, ino, mtimeMs, release(), boot].join(" ");
  signal.throwIfAborted();
  if (known?.key === key && known.until > Date.now()) return known.abilities;
  const abilities = tryAbilities(criu);
  const entry = { key, until: Date.now() + trustedForMs, abilities };
  known = entry;
  const forget = () => {
    if (known === entry) known = undefined;
  };
  // Only what works is remembered: who has cured a failure wants to see it.
  abilities.then(({ dumpsTcp, dumpsOtherUsers }) => (dumpsTcp ?? dumpsOtherUsers) !== undefined && forget(), forget);
  return abilities;
}

async function tryAbilities(criu: string): Promise<Abilities> {
  const [dumpsTcp, dumpsOtherUsers] = await Promise.all([probe(criu, 0), probe(criu, nobody)]);
  return { dumpsTcp, dumpsOtherUsers };
}

/** Not cancelled with its caller, because others may wait for it too. @returns undefined where the probe process was dumped, restored, and answered; else the reason */
async function probe(criu: string, uid: number): Promise<string | undefined> {
  const program = await readFile(new URL("probe.pl", import.meta.url), "utf8");
  const namespaces = ["--net", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child"];
  const { stdout, stderr, failed, timedOut } = await execa("unshare", [...namespaces, "perl", "-", criu, String(uid)], {
    input: program,
    env: { PROBE_SETTINGS: criuSettings },
    timeout: timeoutMs,
    reject: false,
  });
  if (!failed && stdout.trim() === "ok") return undefined;
  if (timedOut) return `the probe did not end within ${timeoutMs} ms`;
  return (stdout.trim() || stderr.trim()).split("\n").at(-1) || "the probe ended without a word";
}

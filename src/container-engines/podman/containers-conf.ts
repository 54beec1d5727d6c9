/** What Podman reads from containers.conf, as far as UMS must know it. Podman's API does not tell. */
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";

export type EngineSettings = Readonly<{
  /** Names of OCI runtimes with the paths at which they are looked for. */
  runtimes: Readonly<Record<string, readonly string[]>>;
  hooksDirectories: readonly string[];
}>;

const files = ["/usr/share/containers/containers.conf", "/etc/containers/containers.conf"];
const directory = "/etc/containers/containers.conf.d";
/** Podman's own (pkg/hooks of Podman 4 and 5). */
const defaultHooksDirectories = ["/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"];

export async function readEngineSettings(): Promise<EngineSettings> {
  const more = (await readdir(directory).catch(() => [])).filter((name) => name.endsWith(".conf")).toSorted();
  const texts = await Promise.all(
    [...files, ...more.map((name) => path.join(directory, name))].map((file) => readFile(file, "utf8").catch(() => "")),
  );
  return mergeSettings(texts);
}

/** Later files win; runtimes add up. */
export function mergeSettings(texts: readonly string[]): EngineSettings {
  let hooksDirectories: readonly string[] = defaultHooksDirectories;
  const runtimes: Record<string, readonly string[]> = {};
  for (const text of texts) {
    for (const { section, key, values } of arraysOf(text)) {
      if (section === "engine" && key === "hooks_dir" && values.length > 0) hooksDirectories = values;
      if (section === "engine.runtimes") runtimes[key] = values;
    }
  }
  return { runtimes, hooksDirectories };
}

/** The arrays of strings of a TOML text: that is all which is read here. */
function arraysOf(text: string): { section: string; key: string; values: string[] }[] {
  const found: { section: string; key: string; values: string[] }[] = [];
  let section = "";
  let open: { key: string; text: string } | undefined;
  for (const line of text.split("\n").map(withoutComment)) {
    if (open) open.text += line;
    else if (/^\s*\[[^[\]]+\]\s*$/.test(line)) section = line.replaceAll(/[[\]\s"]/g, "");
    else {
      const [, key, rest] = /^\s*"?([\w.-]+)"?\s*=\s*(\[.*)$/.exec(line) ?? [];
      if (key !== undefined && rest !== undefined) open = { key, text: rest };
    }
    if (open?.text.includes("]")) {
      found.push({
        section,
        key: open.key,
        values: [...open.text.matchAll(/"([^"]*)"|'([^']*)'/g)].map(([, double, single]) => double ?? single ?? ""),
      });
      open = undefined;
    }
  }
  return found;
}

/** Paths with a # are not among what is read here. */
const withoutComment = (line: string) => line.replace(/#.*$/, "");

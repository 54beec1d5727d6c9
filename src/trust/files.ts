/** Keys and peers in files, readable by root alone. One process has them. */
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UmsError } from "../errors.ts";
import { removeDurably, writeDurably } from "./durable-file.ts";
import { authorityEntry, leafEntry, offerEntry, peerEntry, peerEntryPattern, type TrustStore } from "./store.ts";

export function openTrustFiles(stateDirectory: string): TrustStore {
  const trustDirectory = join(stateDirectory, "trust");
  const peersDirectory = join(stateDirectory, "peers");
  for (const directory of [trustDirectory, peersDirectory]) mkdirSync(directory, { recursive: true, mode: 0o700 });

  const placeOf = (name: string) => {
    const peer = peerEntryPattern.exec(name)?.[1];
    return peer === undefined ? join(trustDirectory, name) : join(peersDirectory, `${peer}.json`);
  };
  const read = (name: string) => {
    try {
      return readFileSync(placeOf(name), "utf8");
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw new UmsError("BAD_STATE", `${placeOf(name)} can't be read.`, { cause });
    }
  };

  return {
    placeOf,
    async read() {
      const peers = readdirSync(peersDirectory).filter((file) => file.endsWith(".json"));
      const names = [authorityEntry, leafEntry, offerEntry, ...peers.map((file) => peerEntry(file.slice(0, -".json".length)))];
      return new Map(names.map((name) => [name, read(name)]).filter((entry): entry is [string, string] => entry[1] !== undefined));
    },
    async update(name, change) {
      const before = read(name);
      const after = change(before);
      if (after === before) return after;
      if (after === undefined) removeDurably(placeOf(name));
      else writeDurably(placeOf(name), after);
      return after;
    },
  };
}

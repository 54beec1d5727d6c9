/** Units of systemd, as this machine has them. */
import { existsSync } from "node:fs";
import { ask } from "./ask.ts";

/** @returns the file that a person has written a unit in; undefined where no systemd runs, or it knows none */
export async function unitFileOf(unit: string): Promise<string | undefined> {
  if (!existsSync("/run/systemd/system")) return undefined;
  const { output } = await ask("systemctl", ["show", "--property=SourcePath,FragmentPath", "--", unit]);
  return writtenIn(output);
}

/** What a generator has made (Quadlet) has a source, which is what a person can change. */
export const writtenIn = (properties: string): string | undefined =>
  /^SourcePath=(\/.*)$/m.exec(properties)?.[1] ?? /^FragmentPath=(\/.*)$/m.exec(properties)?.[1];

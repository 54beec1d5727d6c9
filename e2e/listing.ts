/** What directories and files hold that may be gone meanwhile. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export function listDirectory(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** Relative paths of all that is below, without crossing into what is no plain directory. */
export function walk(top: string, only?: "directories"): string[] {
  const found: string[] = [];
  const visit = (directory: string, prefix: string) => {
    let entries;
    try {
      entries = readdirSync(directory, { withFileTypes: true });
    } catch {
      return;
    }
    for (const entry of entries) {
      const name = prefix + entry.name;
      if (entry.isDirectory()) visit(join(directory, entry.name), `${name}/`);
      if (entry.isDirectory() || !only) found.push(name);
    }
  };
  visit(top, "");
  return found;
}

export function readLines(file: string): string[] {
  try {
    return readFileSync(file, "utf8").split("\n").filter(Boolean);
  } catch {
    return [];
  }
}

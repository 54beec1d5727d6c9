/** Says which exported names no other file mentions. Going by names alone it may miss one; it never blames one in use. */
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

const checkout = resolve(import.meta.dirname, "..");
const files = ["src", "e2e", "setup", "bench"]
  .flatMap((top) => readdirSync(join(checkout, top), { recursive: true, encoding: "utf8" }).map((path) => join(top, path)))
  .filter((path) => path.endsWith(".ts"))
  .map((path) => ({ path, text: readFileSync(join(checkout, path), "utf8") }));
const mentions = new Map<string, Set<string>>();
for (const { path, text } of files) {
  for (const [word] of text.matchAll(/[A-Za-z_$][\w$]*/g)) {
    const paths = mentions.get(word) ?? new Set();
    mentions.set(word, paths.add(path));
  }
}
const unused = files.flatMap(({ path, text }) =>
  [...text.matchAll(/^export (?:declare |abstract |async )*(?:function\*?|const|let|class|type|interface) ([\w$]+)/gm)]
    .map(([, name = ""]) => name)
    // A type may be exported for the sake of a signature that others use.
    .filter((name) => mentions.get(name)?.size === 1 && !(isType(text, name) && isUsedInItsOwnFile(text, name)))
    .map((name) => `${path}: ${name}`),
);

function isType(text: string, name: string): boolean {
  return new RegExp(`^export (type|interface) ${name.replaceAll("$", "\\$")}\\b`, "m").test(text);
}

function isUsedInItsOwnFile(text: string, name: string): boolean {
  return text.split(new RegExp(`\\b${name.replaceAll("$", "\\$")}\\b`)).length > 2;
}

for (const line of unused) console.error(`exported, and used nowhere else: ${line}`);
process.exitCode = unused.length > 0 ? 1 : 0;

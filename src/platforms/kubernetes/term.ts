/**
 * Keeps a node from carrying out what an operator asks that leads no more. The journal refuses its writes, but one that was
 * stopped between a write and the request that follows would still, say, freeze a pod which its successor has let go.
 */
import { readFileSync } from "node:fs";
import { UmsError } from "../../errors.ts";
import { writeDurably } from "../../trust/durable-file.ts";

/** One operator's time of leading: the later, the higher. */
export type Term = Readonly<{
  /** When the Lease was created, in seconds since the epoch: one that was deleted and made again begins to count anew. */
  leaseMadeAt: number;
  /** Of the Lease. */
  transitions: number;
}>;

export const termHeader = "ums-term";
export const formatTerm = ({ leaseMadeAt, transitions }: Term) => `${leaseMadeAt}.${transitions}`;

export type TermGuard = Readonly<{
  /** @param header what came as {@link termHeader}; other parts of the site send none @throws UmsError NOT_LEADING, BAD_REQUEST */
  admit(header: string | undefined): void;
}>;

/** @param file on disk, where the highest term that was ever heard of is kept */
export function createTermGuard(file: string): TermGuard {
  let highest = parse(read(file));
  return {
    admit(header) {
      if (header === undefined) return;
      const term = parse(header);
      if (!term) throw new UmsError("BAD_REQUEST", "The operator's term is not of the documented form.");
      if (highest && compare(term, highest) < 0) throw new UmsError("NOT_LEADING", "Another operator leads by now.");
      if (highest && compare(term, highest) === 0) return;
      writeDurably(file, header);
      highest = term;
    },
  };
}

function parse(text: string): Term | undefined {
  const [, leaseMadeAt, transitions] = /^(\d{1,15})\.(\d{1,15})$/.exec(text) ?? [];
  return leaseMadeAt === undefined ? undefined : { leaseMadeAt: Number(leaseMadeAt), transitions: Number(transitions) };
}

const compare = (one: Term, other: Term) => one.leaseMadeAt - other.leaseMadeAt || one.transitions - other.transitions;

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause;
    return "";
  }
}

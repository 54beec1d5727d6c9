import type { UmsError } from "../../errors.ts";

/** Where output goes. Nothing else in the CLI writes. */
export type Terminal = Readonly<{
  /** Results are one line of JSON instead of text. */
  json: boolean;
  /** A person watches, so lines may be redrawn. */
  live: boolean;
  columns(): number;
  /** The verb's result: the text for people, or the object. */
  result(object: unknown, text: string): void;
  /** News on the way to the result; none with `--json`. */
  say(text: string): void;
  /** Raw output, for a live view. */
  draw(text: string): void;
  error(error: UmsError): void;
}>;

export function createTerminal({
  json,
  stdout,
  stderr,
}: {
  json: boolean;
  stdout: NodeJS.WriteStream;
  stderr: NodeJS.WriteStream;
}): Terminal {
  return {
    json,
    live: stdout.isTTY === true && !json,
    // 0 where the terminal does not know.
    columns: () => stdout.columns || 80,
    result: (object, text) => void stdout.write(json ? `${JSON.stringify(object)}\n` : text === "" ? "" : `${printable(text)}\n`),
    say: (text) => void (json || stdout.write(`${printable(text)}\n`)),
    draw: (text) => void stdout.write(text),
    error({ code, message, cure }) {
      if (json) stdout.write(`${JSON.stringify({ error: { code, message, cure } })}\n`);
      stderr.write(`ums: ${printable(message)} ${cure}\n`);
    },
  };
}

/** Text from another site must not steer the terminal, nor turn what stands beside it round. */
export function printable(text: string): string {
  // eslint-disable-next-line no-control-regex -- control characters are what this is about
  return text.replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "�");
}

/** Columns of text under their titles, but none that is empty (a host has no namespaces); `none` where there are no rows. */
export function table(titles: readonly string[], rows: readonly (readonly string[])[], none: string): string {
  if (rows.length === 0) return none;
  const all = [titles, ...rows];
  const widths = titles.map((_title, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  return all
    .map((row) =>
      row
        .flatMap((cell, column) => (rows.every((each) => !each[column]) ? [] : [cell.padEnd(widths[column] ?? 0)]))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  return `${power === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[power]}`;
}

export function formatMs(milliseconds: number): string {
  return milliseconds < 10_000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

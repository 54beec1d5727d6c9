import type { Migration } from "../coordinator/schema.ts";
import { formatBytes, formatMs, printable, type Terminal } from "./terminal.ts";

/** Shows a migration while it goes on. */
export type ProgressView = Readonly<{ show(migration: Migration): void; close(): void }>;

/** A line that is redrawn where a person watches, a line a phase elsewhere, nothing with `--json`. */
export function createProgressView(terminal: Terminal): ProgressView {
  if (terminal.json) return { show: () => undefined, close: () => undefined };
  return terminal.live ? liveView(terminal) : plainView(terminal);
}

const words: Record<Migration["phase"], string> = {
  Pending: "waiting for its turn",
  Preflight: "checking both sites",
  PreCopy: "sending ahead",
  Frozen: "freezing",
  Transferring: "sending memory and changes",
  Restoring: "restoring",
  CuttingOver: "handing over",
  Succeeded: "moved",
  RollingBack: "undoing",
  RolledBack: "undone",
  Failed: "failed",
};

function plainView(terminal: Terminal): ProgressView {
  let phase: string | undefined;
  let waiting: string | undefined;
  return {
    show(migration) {
      if (migration.phase !== phase) terminal.say(`${migration.id} ${migration.phase}: ${words[migration.phase]}`);
      if (migration.waiting !== undefined && migration.waiting !== waiting) terminal.say(`${migration.id} waits: ${migration.waiting}`);
      ({ phase, waiting } = migration);
    },
    close: () => undefined,
  };
}

const redrawMs = 100;
const eraseLine = "\r\u001b[2K";
const spinner = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

function liveView(terminal: Terminal): ProgressView {
  let current: Migration | undefined;
  let turn = 0;
  const finished = new Set<string>();

  const draw = () => {
    if (!current) return;
    const { phase, bytesSent, memoryBytes, waiting } = current;
    const bytes = bytesSent > 0 ? `, ${formatBytes(bytesSent)} sent${memoryBytes > 0 ? ` (memory ${formatBytes(memoryBytes)})` : ""}` : "";
    const line = `${spinner[turn++ % spinner.length]} ${words[phase]}${bytes}${waiting === undefined ? "" : ` – ${waiting}`}`;
    terminal.draw(eraseLine + printable(line).slice(0, Math.max(10, terminal.columns() - 1)));
  };
  const timer = setInterval(draw, redrawMs);
  timer.unref();

  return {
    show(migration) {
      // A phase is finished, and its time final, when the migration is in another one.
      for (const [phase, milliseconds] of Object.entries(migration.phases)) {
        if (phase === migration.phase || phase === "remainder" || finished.has(phase)) continue;
        finished.add(phase);
        terminal.draw(`${eraseLine}✔ ${(words as Record<string, string>)[phase] ?? printable(phase)}  ${formatMs(milliseconds)}\n`);
      }
      current = migration;
      draw();
    },
    close() {
      clearInterval(timer);
      current = undefined;
      terminal.draw(eraseLine);
    },
  };
}

/** One migration in one or two lines. */
export function describe(migration: Migration): string {
  const { id, service, source, destination, phase, error, waiting } = migration;
  const times = [
    ...(migration.heldMs === undefined ? [] : [`clients waited ${formatMs(migration.heldMs)}`]),
    ...(migration.totalMs === undefined ? [] : [`${formatMs(migration.totalMs)} in all`]),
    ...(migration.bytesSent === 0 ? [] : [`${formatBytes(migration.bytesSent)} sent`]),
  ].join(", ");
  const phases = Object.entries(migration.phases)
    .map(([name, milliseconds]) => `${name} ${formatMs(milliseconds)}`)
    .join(" · ");
  const because = error ? ` ${error.message} ${error.cure}` : "";
  const about = times === "" ? "" : ` (${times})`;
  const sentence =
    phase === "Succeeded"
      ? `${service} is on ${destination}${about}.`
      : phase === "RolledBack"
        ? `${service} stays on ${source}; migration ${id} was undone.${because}`
        : phase === "Failed"
          ? `Migration ${id} of ${service} failed.${because}`
          : waiting !== undefined
            ? `Migration ${id} of ${service} to ${destination} waits: ${waiting}`
            : `${service} is on its way to ${destination} as ${id}: ${phase}${about}.`;
  // What would have been different in a place that it never came to interests nobody.
  const notes = phase === "Succeeded" ? (migration.notes ?? []).map(({ site, detail }) => `note  ${site}: ${detail}`) : [];
  return [sentence, ...(phases === "" ? [] : [phases]), ...notes].join("\n");
}

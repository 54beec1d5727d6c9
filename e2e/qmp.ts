/** Speaks to a virtual machine's qemu by its own protocol (QMP), over the pipes that it was started with. */
import type { ChildProcess } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

/** A qemu that was started with `-qmp stdio`. */
export type Qmp = Readonly<{
  /** @returns what qemu answers. @throws Error with qemu's words when it refuses, or has ended */
  ask<T = unknown>(command: string, args?: Readonly<Record<string, unknown>>): Promise<T>;
  /** Resolves at the next event of that name. @throws Error when that takes longer, or qemu ends before */
  next(event: string, timeoutMs: number): Promise<void>;
}>;

type Message = Readonly<{ id?: number; event?: string; return?: unknown; error?: { desc: string }; QMP?: unknown }>;

/** @param signal ends the wait for qemu's greeting */
export async function connectQmp(qemu: ChildProcess, signal: AbortSignal): Promise<Qmp> {
  const { stdin, stdout, stderr } = qemu;
  if (!stdin || !stdout || !stderr) throw new Error("qemu has no pipes");
  let complaint = "";
  stderr.on("data", (text: Buffer) => (complaint += text.toString()));
  // What is written to a qemu that has ended is answered by its end.
  stdin.on("error", () => undefined);
  const waiting = new Map<number, PromiseWithResolvers<unknown>>();
  const events = new EventEmitter();
  const ended = new AbortController();
  const greeting = Promise.withResolvers<undefined>();
  createInterface({ input: stdout }).on("line", (line) => {
    const message = JSON.parse(line) as Message;
    if (message.QMP) greeting.resolve(undefined);
    if (message.event !== undefined) events.emit(message.event);
    if (message.id === undefined) return;
    const asked = waiting.get(message.id);
    waiting.delete(message.id);
    if (message.error) asked?.reject(new Error(message.error.desc));
    else asked?.resolve(message.return);
  });
  void once(qemu, "exit").then(async () => {
    // What it said last is still in the pipe.
    await sleep(50);
    const error = new Error(`qemu has ended: ${complaint.trim()}`);
    greeting.reject(error);
    ended.abort(error);
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  });
  signal.addEventListener("abort", () => greeting.reject(new Error("qemu did not answer in time", { cause: signal.reason })));
  let asked = 0;
  const ask: Qmp["ask"] = async <T>(command: string, args?: Readonly<Record<string, unknown>>) => {
    if (qemu.exitCode !== null || qemu.signalCode !== null) throw new Error(`qemu has ended: ${complaint.trim()}`);
    const id = ++asked;
    const answer = Promise.withResolvers<unknown>();
    waiting.set(id, answer);
    stdin.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    return (await answer.promise) as T;
  };
  await greeting.promise;
  await ask("qmp_capabilities");
  return {
    ask,
    async next(event, timeoutMs) {
      await once(events, event, { signal: AbortSignal.any([ended.signal, AbortSignal.timeout(timeoutMs)]) });
    },
  };
}

/** Where tests run commands: the inside of other namespaces. What runs there ends with the test runner at the latest. */
import { type ChildProcess, spawn as spawnChild } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { readLines } from "./listing.ts";

const checkout = resolve(import.meta.dirname, "..");
const hostEnvironment = {
  HOME: "/root",
  LANG: "C.UTF-8",
  TERM: "dumb",
  // Node's pipes are sockets, and bash whose stdin is one takes itself for a login by rsh and reads ~/.bashrc; not so below another shell.
  SHLVL: "1",
  PATH: [
    join(checkout, "bin"),
    join(checkout, "node_modules/.bin"),
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "/opt/ums/criu",
  ].join(":"),
};

/** How to run a command in a host or in the wan. */
export type ExecOptions = Readonly<{
  /** 60 s unless told. */
  timeoutMs?: number;
  input?: string | Buffer;
  env?: Readonly<Record<string, string>>;
  /** Reject when the command fails; true unless told. */
  reject?: boolean;
  signal?: AbortSignal;
}>;

/** What a command said. */
export type ExecResult = Readonly<{ stdout: string; stderr: string; exitCode: number | undefined; timedOut: boolean }>;

/** A long-running process in a host or in the wan; ends with it at the latest. */
export type RunningProcess = Readonly<{
  /** The pid as the host sees it. */
  pid: number;
  /** The pid as the test runner sees it. */
  outerPid: number;
  /** What it printed so far, both streams, the last 4 MiB. */
  output(): string;
  /** Resolves with the first line, also one printed before the call, that matches. */
  waitForLine(pattern: RegExp, timeoutMs?: number): Promise<string>;
  write(text: string): void;
  /** Sends a signal to the process itself; SIGTERM unless told. */
  kill(signal?: NodeJS.Signals): void;
  /** Resolves at its end. */
  exited: Promise<Readonly<{ exitCode: number | null; signal: NodeJS.Signals | null }>>;
}>;

/** A place where commands run: a host, or the wan. */
export type Place = Readonly<{
  address: string;
  exec(args: readonly string[], options?: ExecOptions): Promise<ExecResult>;
  spawn(args: readonly string[], options?: Pick<ExecOptions, "env">): Promise<RunningProcess>;
}>;
export function placeAt({ address, enter, forks }: { address: string; enter: () => readonly string[]; forks: boolean }): Place {
  return {
    address,
    exec: async (args, { timeoutMs = 60_000, input, env, reject = true, signal } = {}) => {
      const child = spawnTied([...enter(), ...args], { ...hostEnvironment, ...env });
      // What the command started dies with it, unless it took a session of its own, as daemons do.
      const stop = () => killGroup(child);
      const limit = { passed: false };
      const timer = setTimeout(() => {
        limit.passed = true;
        stop();
      }, timeoutMs);
      signal?.addEventListener("abort", stop);
      const [stdout, stderr] = [child.stdout, child.stderr].map((stream) => {
        const chunks: Buffer[] = [];
        stream?.on("data", (chunk: Buffer) => chunks.push(chunk));
        return () => Buffer.concat(chunks).toString().replace(/\n$/, "");
      });
      child.stdin?.on("error", () => undefined).end(input);
      try {
        const closed = once(child, "close");
        await once(child, "exit");
        // A daemon may hold the pipes open for ever.
        await Promise.race([closed, turns(10)]);
      } finally {
        clearTimeout(timer);
        signal?.removeEventListener("abort", stop);
      }
      signal?.throwIfAborted();
      const said = { stdout: stdout?.() ?? "", stderr: stderr?.() ?? "", exitCode: child.exitCode ?? undefined, timedOut: limit.passed };
      if (reject && said.exitCode !== 0) {
        const how = limit.passed ? `took longer than ${timeoutMs} ms` : `ended with ${said.exitCode ?? child.signalCode ?? "an error"}`;
        throw Object.assign(new Error(`${args.join(" ")} ${how}: ${said.stderr || said.stdout}`), said);
      }
      return said;
    },
    spawn: async (args, { env } = {}) => {
      const child = spawnTied([...enter(), ...args], { ...hostEnvironment, ...env });
      const outerPid = await runningPid(child, { file: args[0] ?? "", forks });
      return runningProcess(child, outerPid);
    },
  };
}

/** So many times what has come by pipes is read: on a busy machine a single timer may fire before that. */
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await sleep(20);
}

function runningProcess(child: ChildProcess, outerPid: number): RunningProcess {
  const kept = 4 * 1024 * 1024;
  let output = "";
  const listeners = new Set<() => void>();
  const changed = () => {
    for (const listener of listeners) listener();
  };
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => {
      output = (output + text).slice(-kept);
      changed();
    });
  }
  let ended = false;
  const exited = new Promise<{ exitCode: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once("exit", (exitCode, signal) => {
      // What it said last is still in the pipe; "close" may never come, while a child of its own holds the pipe.
      void turns(2).then(() => {
        ended = true;
        resolve({ exitCode, signal });
        changed();
      });
    });
  });
  return {
    pid: Number(/^NSpid:.*\s(\d+)$/m.exec(readFileSync(`/proc/${outerPid}/status`, "utf8"))?.[1]),
    outerPid,
    output: () => output,
    waitForLine: (pattern, timeoutMs = 10_000) =>
      new Promise((resolve, reject) => {
        const settle = (action: () => void) => {
          clearTimeout(timer);
          listeners.delete(look);
          action();
        };
        const look = () => {
          const line = output.split("\n").find((candidate) => pattern.test(candidate));
          if (line !== undefined) settle(() => resolve(line));
          else if (ended) settle(() => reject(new Error(`the process ended without a line like ${pattern}:\n${output}`)));
        };
        const timer = setTimeout(
          () => settle(() => reject(new Error(`no line like ${pattern} within ${timeoutMs} ms:\n${output}`))),
          timeoutMs,
        );
        listeners.add(look);
        look();
      }),
    write: (text) => void child.stdin?.write(text),
    kill: (signal = "SIGTERM") => {
      if (!ended) process.kill(outerPid, signal);
    },
    exited,
  };
}

/** Starts a process, in a group of its own, that the kernel kills when this one dies. */
export function spawnTied(args: readonly string[], env: Readonly<Record<string, string>> = hostEnvironment): ChildProcess {
  return spawnChild("setpriv", ["--pdeathsig=KILL", ...args], { stdio: "pipe", env: { ...env }, cwd: "/", detached: true });
}

function killGroup(child: ChildProcess): void {
  try {
    process.kill(-pidOf(child), "SIGKILL");
  } catch {
    // it ended meanwhile
  }
}

export function pidOf(child: ChildProcess): number {
  if (child.pid === undefined) throw new Error("the process could not be started");
  return child.pid;
}

/** The pid of what was asked for, once the programs that lead into the place have become it. */
async function runningPid(child: ChildProcess, { file, forks }: { file: string; forks: boolean }): Promise<number> {
  const leading = new Set(["setpriv", "nsenter"]);
  const deadline = Date.now() + 5_000;
  for (;;) {
    const first = pidOf(child);
    // nsenter's fork into a pid namespace is the one child that the leading programs have.
    const pid = forks ? Number(readLines(`/proc/${first}/task/${first}/children`)[0]?.split(" ")[0]) : first;
    const command = pid ? readCommand(pid) : undefined;
    if (command !== undefined && command !== "" && !leading.has(command)) return pid;
    if (child.exitCode !== null || child.signalCode !== null) {
      await sleep(20);
      const said = String(child.stderr?.read() ?? child.stdout?.read() ?? "");
      throw new Error(`${file} could not be started, or ended at once (${child.exitCode ?? child.signalCode}): ${said}`);
    }
    if (Date.now() > deadline) throw new Error(`${file} did not start`);
    await sleep(2);
  }
}

function readCommand(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return undefined;
  }
}

export async function firstLine(child: ChildProcess, pattern: RegExp, timeoutMs = 10_000): Promise<string> {
  if (!child.stdout || !child.stderr) throw new Error("the process has no output");
  const lines = child.stdout as typeof child.stdout & { lines?: ReturnType<typeof createInterface> };
  lines.lines ??= createInterface({ input: child.stdout });
  const reader = lines.lines;
  let complaint = "";
  child.stderr.on("data", (text: Buffer) => (complaint += text.toString()));
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => settle(() => reject(new Error(`no line like ${pattern} within ${timeoutMs} ms: ${complaint}`))),
      timeoutMs,
    );
    const settle = (action: () => void) => {
      clearTimeout(timer);
      reader.off("line", look);
      action();
    };
    const look = (line: string) => {
      if (pattern.test(line)) settle(() => resolve(line));
    };
    reader.on("line", look);
    child.once("close", () => settle(() => reject(new Error(`the process ended without a line like ${pattern}: ${complaint}`))));
  });
}

export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, "exit");
  child.kill("SIGKILL");
  await closed;
}

type HostProcess = Readonly<{ pid: number; outerPid: number; command: string }>;

/** Read from outside, so that looking leaves no process of its own in the list. */
export function processesOf(initPid: number): HostProcess[] {
  const namespace = readlinkSync(`/proc/${initPid}/ns/pid`);
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        if (readlinkSync(`/proc/${name}/ns/pid`) !== namespace) return [];
        const pids = /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${name}/status`, "utf8"))?.[1]?.split("\t") ?? [];
        const command = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0").join(" ").trim();
        return [{ pid: Number(pids.at(-1)), outerPid: Number(name), command }];
      } catch {
        return []; // it ended meanwhile
      }
    });
}

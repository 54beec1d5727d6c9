import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, describe, expect, test } from "vitest";
import { awaitYoungConnections, inboundConnections, openConnections } from "./young-connections.ts";

const heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
const row = (local: string, remote: string, state: string, inode = "4711") =>
  `   0: ${local} ${remote} ${state} 00000000:00000000 00:00000000 00000000     0        0 ${inode} 1 0000000000000000 20 4 0 10 -1`;
const any = "00000000:0000";
const port = "0A00580A:1F90";
const client = (at: number) => `010A00E7:${at.toString(16).padStart(4, "0").toUpperCase()}`;

describe("inboundConnections", () => {
  test("are those to a port at which the service listens, whose clients may still get something", () => {
    const states = ["01", "02", "03", "04", "05", "06", "07", "08", "09", "0B", "0C"];
    const table = [heading, row("00000000:1F90", any, "0A"), ...states.map((state, at) => row(port, client(at), state))].join("\n");
    const found = inboundConnections([table, `${heading}\n`]).map(({ ends }) => ends);
    expect(found).toEqual([0, 2, 3, 7, 8, 9].map((at) => `${port} ${client(at)}`));
  });

  test("leave out what the service has opened itself", () => {
    expect(inboundConnections([[heading, row(port, client(1), "01")].join("\n")])).toEqual([]);
  });

  test("that nobody has accepted are told apart", () => {
    const table = [heading, row("00000000:1F90", any, "0A"), row(port, client(1), "01", "0"), row(port, client(2), "01")].join("\n");
    expect(inboundConnections([table]).map(({ isAccepted }) => isAccepted)).toEqual([false, true]);
  });
});

/** A service with one client, in a network of its own: each line that it reads opens another connection, or ends that. */
const program = `
const { connect, createServer } = require("node:net");
const server = createServer((socket) => socket.on("error", () => undefined)).listen(9000, "127.0.0.1", () => open(() => console.log("ready")));
const open = (then) => connect({ host: "127.0.0.1", port: 9000 }, then).on("error", () => undefined);
let young;
process.stdin.on("data", () => {
  if (young) young.resetAndDestroy();
  else young = open(() => console.log("opened"));
});
`;

describe("awaitYoungConnections", () => {
  const children: ChildProcess[] = [];
  afterEach(() => children.splice(0).forEach((child) => child.kill("SIGKILL")));
  const said = async (child: ChildProcess) => void (await once(child.stdout!, "data"));
  async function startService() {
    const command = ["--net", "sh", "-c", 'ip link set lo up && exec "$0" -e "$1"', process.execPath, program];
    const child = spawn("unshare", command, { stdio: ["pipe", "pipe", "inherit"] });
    children.push(child);
    await said(child);
    await sleep(50);
    return { child, pid: child.pid ?? 0, before: await openConnections(child.pid ?? 0) };
  }
  const waited = async (pid: number, before: ReadonlySet<string>) => {
    const startedAt = performance.now();
    await awaitYoungConnections(pid, { before, patienceMs: 2_000 });
    return performance.now() - startedAt;
  };

  test("waits for one that was opened since, until it has ended, and not for those that were there", async () => {
    const { child, pid, before } = await startService();
    expect(before.size).toBe(1);
    expect(await waited(pid, before)).toBeLessThan(1_000);
    child.stdin.write("open\n");
    await said(child);
    setTimeout(() => child.stdin.write("end\n"), 300);
    expect(await waited(pid, before)).toBeGreaterThan(250);
  });

  test("gives up one that stays", async () => {
    const { child, pid, before } = await startService();
    child.stdin.write("open\n");
    await said(child);
    expect(await waited(pid, before)).toBeGreaterThanOrEqual(1_990);
  });
});

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir, totalmem } from "node:os";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { hardLimit, listOf, missingBytes, missingProfiles } from "./destination.ts";
import { dumpRoom, memory } from "./machine.ts";
import { boundSockets, dumpableDevice, heldResources, openProtocols, unixConnections } from "./resources.ts";

describe("room for the memory image", () => {
  const onDisk = ["/var/lib/no-such-directory"];

  test("is looked for in every directory; the service's own memory counts where it is restored alone", async () => {
    const total = totalmem();
    expect(await dumpRoom(["/proc", ...onDisk], { memoryBytes: 1 << 20 })).toMatchObject({ ok: true });
    expect(await dumpRoom(["/dev/shm", ...onDisk], { memoryBytes: 2 ** 50 })).toMatchObject({ ok: false, code: "NO_ROOM" });
    expect(await dumpRoom(onDisk, { memoryBytes: total })).toMatchObject({ ok: true });
    expect(await memory(onDisk, { memoryBytes: total })).toMatchObject({ ok: false, code: "NO_MEMORY" });
  });
});

describe("a destination", () => {
  test("lacks of an image what no image here has in common with it", () => {
    const wanted = { layers: ["a", "b", "c"], sizeBytes: 100 };
    expect(missingBytes(wanted, [])).toBe(100);
    expect(
      missingBytes(wanted, [
        { layers: ["a"], sizeBytes: 30 },
        { layers: ["a", "b"], sizeBytes: 60 },
        { layers: ["a", "x"], sizeBytes: 90 },
      ]),
    ).toBe(40);
  });

  test("lacks an AppArmor profile that the kernel does not list by just that name", () => {
    const loaded = "/usr/bin/man (enforce)\nmy profile (complain)\ncontainers-default-0.62.2 (enforce)\n";
    expect(missingProfiles(["my profile", "containers-default-0.62.2"], loaded)).toEqual([]);
    expect(missingProfiles(["containers-default-0.50.1"], loaded)).toEqual(["The profile containers-default-0.50.1 is not loaded."]);
    expect(missingProfiles(["web"], "")).toHaveLength(1);
  });

  test("reads the kernel's lists and limits", () => {
    expect(listOf("0-2,5\n")).toEqual([0, 1, 2, 5]);
    expect(listOf("")).toEqual([]);
    const limits =
      "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 20000                files     \nMax stack size            8388608              unlimited            bytes     \n";
    expect(hardLimit(limits, "RLIMIT_NOFILE")).toBe(20000);
    expect(hardLimit(limits, "RLIMIT_STACK")).toBe(Infinity);
  });
});

describe("sockets", () => {
  const header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
  const row = (address: string, state: string, inode: number) =>
    `   0: ${address}:0050 00000000:0000 ${state} 00000000:00000000 00:00000000 00000000     0        0 ${inode} 1\n`;

  test("that listen at the container's own address are found, and no others", () => {
    const table = header + row("0404580A", "0A", 1) + row("00000000", "0A", 2) + row("0100007F", "0A", 3) + row("0404580A", "01", 4);
    expect(boundSockets(table, "tcp")).toEqual([{ inode: "1", words: "10.88.4.4:80/tcp" }]);
  });

  test("of IPv6 count too, also with an IPv4 address in them", () => {
    const table =
      header +
      row("0000000000000000FFFF00000404580A", "0A", 1) +
      row("000080FE00000000FF005450B6DE5FFE", "0A", 2) +
      row("00000000000000000000000001000000", "0A", 3) +
      row("00000000000000000000000000000000", "0A", 4);
    expect(boundSockets(table, "tcp").map(({ inode }) => inode)).toEqual(["1", "2"]);
    expect(boundSockets(table, "tcp")[0]?.words).toBe("10.88.4.4:80/tcp");
  });

  test("of UDP count when connected, and not when they take multicast", () => {
    expect(boundSockets(header + row("0404580A", "01", 1) + row("FB0000E0", "07", 2), "udp").map(({ inode }) => inode)).toEqual(["1"]);
  });

  test("of a protocol are counted where the namespace has some", () => {
    expect(
      openProtocols("protocol  size sockets  memory\nMPTCP     1936      1     365\nTCP       2304      3     365\nUDP 1344 0 -1\n"),
    ).toEqual(["MPTCP", "TCP"]);
  });

  test("of a unix kind show both ends, whatever their names are", () => {
    const text =
      "u_str ESTAB  0      0                 * 547303             * 547304\nu_str LISTEN 0 5 /run/a b.sock 11 * 0\nu_dgr ESTAB 0 0 * 7 /run/log 8\n";
    expect(unixConnections(text)).toEqual([
      { inode: "547303", peer: "547304", path: "*" },
      { inode: "11", peer: "0", path: "/run/a b.sock" },
      { inode: "7", peer: "8", path: "/run/log" },
    ]);
  });
});

describe("devices", () => {
  const device = (major: number, minor: number) => (major << 8) | minor;
  test("of memory, terminals and tun can be dumped", () => {
    expect([device(1, 3), device(1, 9), device(5, 0), device(136, 4), device(10, 200)].map(dumpableDevice)).toEqual([
      true,
      true,
      true,
      true,
      true,
    ]);
    expect([device(1, 11), device(10, 229), device(10, 232), device(195, 0)].map(dumpableDevice)).toEqual([false, false, false, false]);
  });
});

describe("processes", () => {
  test("with io_uring are named, also where the ring has no descriptor; a descriptor of another mount namespace is named", async () => {
    const proc = await mkdtemp(path.join(tmpdir(), "proc-"));
    try {
      type Shown = { fds?: Record<string, string>; maps?: string; parent?: number; state?: string };
      const process = async (pid: number, { fds = {}, maps = "", parent = 10, state = "S (sleeping)" }: Shown) => {
        const directory = path.join(proc, String(pid));
        for (const each of ["fd", "fdinfo", "ns"]) await mkdir(path.join(directory, each), { recursive: true });
        await writeFile(path.join(directory, "status"), `Name:\tapp\nState:\t${state}\nPPid:\t${parent}\nTracerPid:\t0\n`);
        await writeFile(path.join(directory, "maps"), maps);
        await writeFile(path.join(directory, "mountinfo"), "24 1 0:1 / / rw - overlay overlay rw\n");
        for (const [fd, link] of Object.entries(fds)) {
          await symlink(link, path.join(directory, "fd", fd));
          await writeFile(path.join(directory, "fdinfo", fd), `pos:\t0\nmnt_id:\t${link.includes("outside") ? 99 : 24}\n`);
        }
      };
      await process(10, { parent: 1, fds: { 3: "anon_inode:[io_uring]", 4: "anon_inode:[eventpoll]", 5: "/var/lib/data", 6: "pipe:[7]" } });
      await process(11, { maps: "7f00-7f01 rw-s 00000000 00:0f 1 anon_inode:[io_uring]\n" });
      await process(12, { fds: { 3: "/outside", 4: "anon_inode:[perf_event]" } });
      // What is run beside it goes nowhere, but has to be stopped, too.
      await process(14, { parent: 1, fds: { 3: "/outside", 4: "anon_inode:[io_uring]" } });
      await process(15, { parent: 14, state: "T (stopped)", fds: { 3: "/outside" } });
      const held = await heldResources({ init: 10, pids: [10, 11, 12, 13, 14, 15], proc });
      expect(held).toEqual({
        ioUring: ["process app (10) uses io_uring", "process app (11) uses io_uring"],
        ownAddresses: [],
        unsupported: [
          "process app (15) is stopped (SIGSTOP)",
          "process app (12) holds /outside",
          "process app (12) holds anon_inode:[perf_event]",
        ],
      });
    } finally {
      await rm(proc, { recursive: true });
    }
  });

  test("that have ended and that nobody has waited for hold nothing", async () => {
    // In a network of its own: sockets are looked up by network, and other tests have some open.
    const parent = spawn("unshare", ["--net", "sh", "-c", "sleep 0 & exec sleep 60"], { stdio: "ignore" });
    try {
      const init = parent.pid ?? 0;
      const children = async () => (await readFile(`/proc/${init}/task/${init}/children`, "utf8")).trim();
      const isZombie = async (pid: string) => /^State:\s+Z/m.test(await readFile(`/proc/${pid}/status`, "utf8"));
      await expect.poll(async () => await isZombie(await children())).toBe(true);
      const held = await heldResources({ init, pids: [init, Number(await children())] });
      expect(held).toEqual({ ioUring: [], ownAddresses: [], unsupported: [] });
    } finally {
      parent.kill("SIGKILL");
      await once(parent, "exit");
    }
  });
});

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { gunzipSync } from "node:zlib";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { makePackage } from "./package.ts";
import { type Architecture, ownArchitecture } from "./platforms.ts";

// On a new machine Node and CRIU come over the network first.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 300_000 });
const checkout = resolve(import.meta.dirname, "..");
const version = (JSON.parse(readFileSync(join(checkout, "package.json"), "utf8")) as { version: string }).version;

/** e_machine of elf(5). */
const machines: Record<Architecture, number> = { amd64: 62, arm64: 183 };

const filesBelow = (root: string) =>
  readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length));

describe.each(["amd64", "arm64"] as const)("the package for %s", (architecture) => {
  const directory = mkdtempSync(join(tmpdir(), "ums-test-"));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  const root = join(directory, "root");
  let made = "";
  const field = async (name: string) => (await execa("dpkg-deb", ["--field", made, name])).stdout;

  beforeAll(async () => {
    made = await makePackage({ architecture, directory, compression: "quick" });
    await execa("dpkg-deb", ["--raw-extract", made, root]);
  });

  test("has all that a host needs and Debian lacks", () => {
    expect(made).toBe(join(directory, `ums_${version}_${architecture}.deb`));
    const wanted = [
      ...["node", "ums"].map((name) => `/usr/lib/ums/bin/${name}`),
      ...["ums.mjs", "probe.pl"].map((name) => `/usr/lib/ums/dist/${name}`),
      ...["criu", "criu.bin", "lib/libc.so.6", "lib/criu-without-sys-resource.so"].map((name) => `/opt/ums/criu/${name}`),
      ...["ums-runc", "refuse-held"].map((name) => `/opt/ums/bin/${name}`),
      "/etc/containers/containers.conf.d/ums.conf",
      "/usr/share/containers/oci/hooks.d/ums.json",
      "/usr/lib/systemd/system/ums.service",
      "/usr/share/bash-completion/completions/ums",
      "/usr/share/man/man1/ums.1.gz",
      ...["copyright", "changelog.gz", "hosts.md"].map((name) => `/usr/share/doc/ums/${name}`),
    ];
    expect(filesBelow(root)).toEqual(expect.arrayContaining(wanted));
    expect(existsSync(join(root, "usr/bin/ums"))).toBe(true);
    expect(readFileSync(join(root, "DEBIAN/conffiles"), "utf8")).toBe("/etc/containers/containers.conf.d/ums.conf\n");
  });

  test("its programs and libraries are for that machine, and the libraries of CRIU are all there", async () => {
    const programs = filesBelow(root).filter((file) => readFileSync(join(root, file)).subarray(0, 4).equals(Buffer.from("\x7fELF")));
    expect(programs.length).toBeGreaterThan(20);
    const ofOthers = programs.filter((file) => readFileSync(join(root, file)).readUInt16LE(18) !== machines[architecture]);
    expect(ofOthers).toEqual([]);
    const { stdout } = await execa("readelf", [
      "--dynamic",
      ...programs.filter((file) => file.startsWith("/opt/ums/criu/")).map((file) => join(root, file)),
    ]);
    const needed = [...stdout.matchAll(/\(NEEDED\).*\[(.+)\]/g)].map(([, name = ""]) => name);
    expect(new Set(needed)).toContain("libnet.so.9");
    expect(needed.filter((name) => !existsSync(join(root, "opt/ums/criu/lib", name)))).toEqual([]);
    expect(readFileSync(join(root, "opt/ums/criu/criu"), "utf8")).toMatch(/\/lib\/ld-linux-[\w-]+\.so\.\d --library-path/);
  });

  test("depends on what Debian has of what UMS calls", async () => {
    expect(await field("Architecture")).toBe(architecture);
    const depends = (await field("Depends")).split(", ");
    expect(depends).toEqual(
      expect.arrayContaining([
        ...["podman (>= 4.3)", "runc (>= 1.1)", "netavark (>= 1.4)", "nftables (>= 1.0)", "iproute2 (>= 5.10)"],
        ...["conntrack", "bubblewrap", "mount", "libstdc++6", expect.stringMatching(/^libc6 \(>= 2\.\d+\)$/)],
      ]),
    );
    // Debian Policy 3.5: without a version nobody depends on what is essential.
    expect(depends.filter((each) => /^(coreutils|util-linux|perl-base|tar|findutils)$/.test(each))).toEqual([]);
    expect(await field("Built-Using")).toMatch(/\bcriu \(= 4\.\d.*, glibc \(= /);
  });

  test("its manual page has every verb and exit code, and man(1) minds nothing", async () => {
    const page = gunzipSync(readFileSync(join(root, "usr/share/man/man1/ums.1.gz"))).toString();
    for (const verb of "serve pair sites list plan migrate status watch cancel release resolve doctor completion".split(" "))
      expect(page).toMatch(new RegExp(`^\\.SS ums ${verb} `, "m"));
    expect(page).toMatch(/^\.B 130$/m);
    const groff = await execa("groff", ["-man", "-ww", "-Tutf8", "-z"], { input: page, reject: false });
    if (groff.code !== "ENOENT") expect({ exitCode: groff.exitCode, stderr: groff.stderr }).toEqual({ exitCode: 0, stderr: "" });
  });

  test("does not tell where it was made, nor whose the files were", async () => {
    const places = [checkout, directory, "/var/cache/ums"].flatMap((place) => ["-e", place]);
    const { stdout } = await execa("grep", ["-rlF", ...places, root], { reject: false });
    expect(stdout).toBe("");
    const { stdout: listing } = await execa("dpkg-deb", ["--contents", made]);
    const strange = listing.split("\n").filter((line) => !/^([d-]rwxr-xr-x|-rw-r--r--|lrwxrwxrwx) root\/root /.test(line));
    expect(strange).toEqual([]);
  });

  test.skipIf(architecture !== ownArchitecture())("its `ums` runs with the Node that it brings", async () => {
    const { stdout } = await execa(join(root, "usr/bin/ums"), ["--version"], { env: { PATH: "/usr/bin:/bin" }, extendEnv: false });
    expect(stdout).toBe(version);
  });

  test("is the same to the byte when it is made again", async () => {
    const again = await makePackage({ architecture, directory: join(directory, "again"), compression: "quick" });
    expect(readFileSync(again).equals(readFileSync(made))).toBe(true);
  });
});

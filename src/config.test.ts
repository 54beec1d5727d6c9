import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { advertisedAddresses, loadConfig, parseConfig } from "./config.ts";

test("an empty file gives every default", () => {
  expect(parseConfig({ siteName: "alpha" })).toMatchObject({
    siteName: "alpha",
    listen: { host: "0.0.0.0", port: 7443 },
    socketPath: "/run/ums/ums.sock",
    maxConcurrentMigrations: 2,
    limits: { transferSeconds: 600 },
  });
});

test.each([
  [{ listen: { port: "7443" } }, "“listen.port” must be integer"],
  [{ colour: "red" }, "“colour” is no field of the configuration"],
  [{ accept: { hostNetwork: true } }, "“accept.hostNetwork” is no field of the configuration"],
  [{ accept: { approaches: ["magic"] } }, "“accept.approaches.0” must"],
  [{ limits: { restoreSeconds: 0 } }, "“limits.restoreSeconds” must be > 0"],
  [{ siteName: "Not A Name" }, "“siteName” must match pattern"],
  [{ advertise: ["no port"] }, "“advertise.0” must match pattern"],
  [{ socketPath: `/${"x".repeat(120)}` }, "“socketPath” is longer than"],
  [[], "it must be object"],
])("%j is refused with the field's name", (content, message) => {
  expect(() => parseConfig(content, "/etc/ums/config.json")).toThrow(`/etc/ums/config.json: ${message}`);
});

test("a file that was asked for must be there and be JSON; the default one may be missing", () => {
  const directory = mkdtempSync(join(tmpdir(), "ums-test-"));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "config.json");
  expect(() => loadConfig(path)).toThrow(`${path} can't be read.`);
  writeFileSync(path, "{ siteName: ");
  expect(() => loadConfig(path)).toThrow(`${path} is not JSON`);
  writeFileSync(path, '{"siteName": "beta"}');
  expect(loadConfig(path).siteName).toBe("beta");
});

test("a site tells others its configured addresses, else the one it listens on", () => {
  const listen = { host: "0.0.0.0", port: 7443 };
  expect(advertisedAddresses({ advertise: ["a:1"], listen })).toEqual(["a:1"]);
  expect(advertisedAddresses({ advertise: [], listen })).toEqual([]);
  expect(advertisedAddresses({ advertise: [], listen: { host: "10.0.0.1", port: 1 } })).toEqual(["10.0.0.1:1"]);
  expect(advertisedAddresses({ advertise: [], listen: { host: "fd00::1", port: 1 } })).toEqual(["[fd00::1]:1"]);
});

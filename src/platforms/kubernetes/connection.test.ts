import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { dump } from "js-yaml";
import { expect, test, vi } from "vitest";
import { temporaryDirectory } from "../../trust/temporary-directory-for-tests.ts";
import { connectByKubeconfig, connectInCluster } from "./connection.ts";

test("a pod's connection uses its service account, and reads a replaced token anew", async () => {
  const directory = temporaryDirectory();
  for (const [name, text] of Object.entries({ "ca.crt": "CA", namespace: "team\n", token: "first\n" })) {
    writeFileSync(join(directory, name), text);
  }
  const connection = connectInCluster({ host: "fd00::1", port: "443", directory });
  expect([connection.server.href, connection.namespace]).toEqual(["https://[fd00::1]/", "team"]);
  expect(await connection.credentials()).toEqual({ ca: "CA", headers: { authorization: "Bearer first" } });
  writeFileSync(join(directory, "token"), "second");
  expect((await connection.credentials()).headers).toEqual({ authorization: "Bearer first" });
  const later = performance.now() + 61_000;
  using _clock = vi.spyOn(performance, "now").mockReturnValue(later);
  expect((await connection.credentials()).headers).toEqual({ authorization: "Bearer second" });
});

test("outside of a pod there is no such connection", () => {
  const refused = expect.objectContaining({ code: "BAD_CONFIGURATION" });
  expect(() => connectInCluster({ host: undefined, port: undefined })).toThrow(refused);
  expect(() => connectInCluster({ host: "10.0.0.1", port: "443", directory: temporaryDirectory() })).toThrow(refused);
});

test("a kubeconfig's current context says where and who", async () => {
  const directory = temporaryDirectory();
  const file = join(directory, "config");
  const config = {
    clusters: [{ name: "c", cluster: { server: "https://127.0.0.1:6443/prefix", "insecure-skip-tls-verify": true } }],
    users: [{ name: "u", user: { token: "secret" } }],
    contexts: [{ name: "x", context: { cluster: "c", user: "u", namespace: "team" } }],
    "current-context": "x",
  };
  writeFileSync(file, JSON.stringify(config));
  const connection = await connectByKubeconfig(file);
  expect([connection.server.href, connection.namespace]).toEqual(["https://127.0.0.1:6443/prefix", "team"]);
  expect(await connection.credentials()).toMatchObject({ rejectUnauthorized: false, headers: { authorization: "Bearer secret" } });
  writeFileSync(join(directory, "ca.crt"), "CA");
  const mutual = {
    ...config,
    clusters: [{ name: "c", cluster: { server: "https://127.0.0.1:6443", "certificate-authority": "ca.crt" } }],
    users: [{ name: "u", user: { "client-certificate-data": "Y2VydA==", "client-key-data": "a2V5" } }],
  };
  writeFileSync(file, dump(mutual));
  const [ca, cert, key] = ["CA", "cert", "key"].map((text) => Buffer.from(text));
  expect(await (await connectByKubeconfig(file)).credentials()).toEqual({ ca, cert, key });
  for (const user of [{ exec: { command: "aws" } }, { username: "root", password: "x" }]) {
    writeFileSync(file, JSON.stringify({ ...config, users: [{ name: "u", user }] }));
    await expect(connectByKubeconfig(file)).rejects.toThrow(/asks for “(exec|username)”/);
  }
  writeFileSync(file, "nothing");
  await expect(connectByKubeconfig(file)).rejects.toThrow(expect.objectContaining({ code: "BAD_CONFIGURATION" }));
});

import { once } from "node:events";
import { connect } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { listenForHealth } from "./health.ts";

async function start() {
  const health = await listenForHealth({ host: "127.0.0.1", port: 0 });
  onTestFinished(() => health[Symbol.asyncDispose]());
  return health;
}

const ask = async ({ port }: { port: number }, path: string, init: RequestInit = {}) => {
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, { signal: AbortSignal.timeout(1_000), ...init });
  return { status: answer.status, text: await answer.text(), connection: answer.headers.get("connection") };
};

test("the health check is answered, and nothing else", async () => {
  const health = await start();
  expect(await ask(health, "/healthcheck")).toEqual({ status: 200, text: "OK", connection: "close" });
  for (const path of ["/", "/list", "/peer/healthcheck", "/healthcheck?x", "/healthcheck/"])
    expect(await ask(health, path), path).toMatchObject({ status: 404, text: "" });
  for (const method of ["POST", "PUT", "DELETE"])
    expect(await ask(health, "/healthcheck", { method }), method).toMatchObject({ status: 404 });
});

test("silent connections, however many, keep no probe out, and end", async () => {
  const health = await start();
  const idle = Array.from({ length: 500 }, (_, at) => {
    const socket = connect(health.port, "127.0.0.1").on("error", () => undefined);
    if (at % 2 === 0) socket.write("GET /healthcheck HTTP/1.1\r\nHost: ");
    return socket.resume();
  });
  const ends = idle.map((socket) => once(socket, "close"));
  for (let round = 0; round < 10; round++) expect(await ask(health, "/healthcheck")).toMatchObject({ status: 200 });
  await Promise.all(ends);
});

test("a port that is taken is said so", async () => {
  const { port } = await start();
  await expect(listenForHealth({ host: "127.0.0.1", port })).rejects.toThrow(expect.objectContaining({ code: "SERVE_RUNNING" }));
});

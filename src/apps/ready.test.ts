import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { execa } from "execa";
import { expect, onTestFinished, test } from "vitest";
import { temporaryDirectory } from "../trust/temporary-directory-for-tests.ts";
import { sayReady, takeSupervisor } from "./ready.ts";

/** A socket as systemd's, and what comes on it. */
async function supervisor(): Promise<{ socket: string; heard: Promise<string> }> {
  const socket = join(temporaryDirectory(), "notify");
  const program = String.raw`use IO::Socket::UNIX; $| = 1; my $own = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $ARGV[0]) or die $!;
    print "listening"; $own->recv(my $message, 4096); print $message;`;
  const listener = spawn("perl", ["-e", program, socket], { stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(() => void listener.kill("SIGKILL"));
  const [listening] = await once(listener.stdout, "data");
  expect(String(listening)).toBe("listening");
  return { socket, heard: once(listener.stdout, "data").then(([message]) => String(message)) };
}

test("the supervisor hears that this process is ready", async () => {
  const { socket, heard } = await supervisor();
  await sayReady(socket);
  expect((await heard).trim()).toBe("READY=1");
});

test("the way to the supervisor is taken by this process, and nothing that it starts has it", async () => {
  const environment = { NOTIFY_SOCKET: "/run/notify", HOME: "/root" };
  expect(takeSupervisor(environment)).toBe("/run/notify");
  expect(environment).toEqual({ HOME: "/root" });
  expect((await execa("env", { env: environment, extendEnv: false })).stdout).toBe("HOME=/root");
  expect(takeSupervisor(environment)).toBeUndefined();
});

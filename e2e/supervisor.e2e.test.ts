import { afterAll, beforeAll, expect, test } from "vitest";
import { bundle } from "../setup/bundle.ts";
import { createHosts, type Hosts } from "./hosts.ts";
import { loadImage } from "./images.ts";
import type { RunningProcess } from "./place.ts";

const ums = new URL("../bin/ums", import.meta.url).pathname;
const socket = "/run/supervisor";
/** As systemd listens. The moment it hears something, it asks whether the site answers people, and other sites. */
const supervisor = String.raw`
  use IO::Socket::UNIX; use IO::Socket::INET; $| = 1;
  my $own = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $ARGV[0]) or die $!;
  print "listening\n";
  while (defined $own->recv(my $message, 4096)) {
    my $people = IO::Socket::UNIX->new(Peer => "/run/ums/ums.sock");
    print $people "GET /healthcheck HTTP/1.0\r\n\r\n" if $people;
    my $answer = $people ? <$people> : "nobody\n";
    my $sites = IO::Socket::INET->new("127.0.0.1:7443") ? "open" : "closed";
    $message =~ s/\n/ /g; $answer =~ s/\s+$//;
    print "heard $message: $answer, port $sites\n";
  }`;

let hosts: Hosts;
let listener: RunningProcess;
beforeAll(async () => {
  await bundle();
  hosts = await createHosts();
  listener = await hosts.hosts[0].spawn(["perl", "-e", supervisor, socket]);
  await listener.waitForLine(/^listening$/);
});
afterAll(() => hosts[Symbol.asyncDispose]());

test("a supervisor hears that the site is ready when it answers, and no container gets the way to it", async () => {
  const [host] = hosts.hosts;
  const image = await loadImage(host);
  const serve = await host.spawn([ums, "serve"], { env: { NOTIFY_SOCKET: socket } });
  await listener.waitForLine(/^heard READY=1/, 30_000);
  expect(listener.output()).toMatch(/^listening\nheard READY=1 ?: HTTP\/1\.1 200 OK, port open\n/);
  expect(serve.output()).toMatch(/"msg":"serving"/);

  const service = ["--remote", "--url", "unix:///run/ums/podman.sock"];
  await host.podman([...service, "run", "--detach", "--name", "asks", "--network=none", image]);
  const { stdout } = await host.podman(["inspect", "--format", "{{.Config.Env}} {{.HostConfig.Binds}} {{.OCIRuntime}}", "asks"]);
  expect(stdout).toMatch(/ ums$/);
  expect(stdout).not.toMatch(/notify/i);
  // Neither Podman, nor conmon, nor what runs in the container. What the process itself began with, the kernel shows to its end.
  const tell = "grep -lz ^NOTIFY_SOCKET= /proc/[0-9]*/environ 2>/dev/null; true";
  const { stdout: having } = await host.exec(["sh", "-c", tell]);
  expect(having.split("\n").filter((file) => file !== `/proc/${serve.pid}/environ`)).toEqual([]);
  serve.kill("SIGTERM");
  await serve.exited;
});

import { expect, test } from "vitest";
import type { PortMapping } from "../protocol/container-spec.ts";
import { clientNotes } from "./notes.ts";

const port = (hostIp: string, protocol: PortMapping["protocol"] = "tcp"): PortMapping => ({
  hostIp,
  hostPort: 80,
  containerPort: 80,
  protocol,
});

test("a service that nobody outside knows has no note", () => expect(clientNotes([])).toEqual([]));

test("whoever is not led is named", () => {
  expect(clientNotes([port("192.0.2.1")])).toEqual([expect.stringContaining("are reset")]);
  expect(clientNotes([port("192.0.2.1", "udp")])).toEqual([]);
  expect(clientNotes([port("")])).toEqual([expect.stringContaining("are reset"), expect.stringContaining("that use 127.0.0.1")]);
  expect(clientNotes([port("127.0.0.2")])).toEqual([expect.stringContaining("127.0.0.2:80/tcp")]);
  expect(clientNotes([port("::", "udp")])).toEqual([expect.stringContaining("[::]:80/udp")]);
});

import { expect, test } from "vitest";
import type { NodeClient } from "../../approaches/orchestrator-level/node/client.ts";
import { UmsError } from "../../errors.ts";
import { failed, passed } from "../../preflight/check.ts";
import { examineNodes } from "./nodes.ts";

/** As much of a node as its doctor. */
const node = (name: string, doctor: NodeClient["doctor"]) => ({ node: name, address: "10.0.0.1", doctor }) as NodeClient;

test("a node that can't take pods in is not called ok, and one that is silent is named", async () => {
  const interfaces = {
    all: () => [
      node("a-1", async () => [passed("CRIU", "4.2.1"), failed("pods that arrive", "NODE_UNCHANGEABLE", "no systemd answers")]),
      node("a-2", async () => await Promise.reject(new UmsError("SITE_UNREACHABLE", "The interface of node a-2 does not answer."))),
    ],
  };
  const lines = await examineNodes(interfaces, new AbortController().signal);
  expect(lines.map(({ name, ok, code }) => [name, ok, code])).toEqual([
    ["interface of node a-1", true, undefined],
    ["node a-1: CRIU", true, undefined],
    ["node a-1: pods that arrive", false, "NODE_UNCHANGEABLE"],
    ["interface of node a-2", false, "SITE_UNREACHABLE"],
  ]);
});

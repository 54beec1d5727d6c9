/** The interface of a node behind HTTP: what the other parts of its own site may ask. */
import { createSocket } from "node:dgram";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Type } from "typebox";
import type { Arriving } from "../../approaches/orchestrator-level/node/arriving.ts";
import { forwardingActions } from "../../approaches/orchestrator-level/node/client.ts";
import { UmsError } from "../../errors.ts";
import { type TermGuard, termHeader } from "../../platforms/kubernetes/term.ts";
import { closed } from "../../protocol/forms.ts";
import type { Check } from "../../preflight/check.ts";
import { type CheckResult, Measures } from "../../protocol/measures.ts";
import { migrationIdPattern } from "../../protocol/names.ts";
import { ArrivedPod, ArrivingPod, NodeForwarding, PublishedPort } from "../../protocol/pod.ts";
import type { PeerApp } from "../../server/peer-server.ts";
import { hangUp } from "./leaving-routes.ts";
import {
  endDatagramFlows,
  forgetConnections,
  forgetDatagrams,
  type Forwarding,
  holdNewConnections,
  installForwarding,
  keepForwardings,
  letThrough,
  makeWaitingPlace,
  removeForwarding,
  removeWaitingPlace,
  wayTo,
  withdrawForwarding,
} from "../../traffic/forward.ts";

const params = Type.Object({ id: Type.String({ pattern: migrationIdPattern }) }, closed);
type ById = { Params: { id: string } };

/** Before all others of the node. @param options.address of this node @param options.terms refuse an operator that leads no more */
export function registerNodeRoutes(
  app: PeerApp,
  {
    arriving,
    check,
    doctor,
    terms,
    address,
  }: {
    arriving: Arriving;
    check: (measures: Measures, signal: AbortSignal) => Promise<CheckResult[]>;
    doctor: (signal: AbortSignal) => Promise<Check[]>;
    terms: TermGuard;
    address: string;
  },
): void {
  app.addHook("onRequest", async ({ headers }) => terms.admit(headers[termHeader]?.toString()));

  app.get("/node/doctor", () => doctor(AbortSignal.timeout(120_000)));

  app.post<{ Body: Measures }>("/node/check", { schema: { body: Measures } }, (request) =>
    check(request.body, AbortSignal.timeout(120_000)),
  );

  app.put<ById & { Body: ArrivingPod }>("/node/arriving/:id", { schema: { params, body: ArrivingPod } }, async (request) => {
    await arriving.announce(request.params.id, request.body);
    return {};
  });
  const Arm = Type.Object({ timeoutMs: Type.Integer({ minimum: 1, maximum: 3_600_000 }) }, closed);
  app.post<ById & { Body: { timeoutMs: number } }>("/node/arriving/:id/arm", { schema: { params, body: Arm } }, (request, reply) =>
    arriving.arm(request.params.id, { timeoutMs: request.body.timeoutMs, signal: hangUp(reply) }),
  );
  app.post<ById>("/node/arriving/:id/restore", { schema: { params } }, async (request) => {
    await arriving.restore(request.params.id);
    return {};
  });
  type Arrived = ById & { Body: ArrivedPod };
  app.post<Arrived>("/node/arriving/:id/state", { schema: { params, body: ArrivedPod } }, async (request) => ({
    state: await arriving.state(request.params.id, request.body),
  }));
  app.post<Arrived>("/node/arriving/:id/take-over", { schema: { params, body: ArrivedPod } }, async (request) => {
    await arriving.takeOver(request.params.id, request.body);
    return {};
  });
  app.post<Arrived>("/node/arriving/:id/destroy", { schema: { params, body: ArrivedPod } }, async (request) => {
    await arriving.destroy(request.params.id, request.body);
    return {};
  });

  const Ports = Type.Object({ ports: Type.Array(PublishedPort, { maxItems: 256 }) }, closed);
  app.post<{ Body: { ports: PublishedPort[] } }>("/node/led", { schema: { body: Ports } }, async (request) => {
    await Promise.all(request.body.ports.map((port) => expectLed(address, port)));
    return {};
  });

  const forwarding: Record<(typeof forwardingActions)[number], (forwarding: NodeForwarding) => Promise<void>> = {
    wait: async (wanted) => makeWaitingPlace(await resolved(wanted)),
    hold: async (wanted) => holdNewConnections(await resolved(wanted)),
    "forget-datagrams": async (wanted) => forgetDatagrams(await resolved(wanted)),
    "forget-connections": async (wanted) => forgetConnections(await resolved(wanted)),
    "let-through": async (wanted) => letThrough(await resolved(wanted)),
    lead: async (wanted) => installForwarding(await resolved(wanted)),
    "end-wait": ({ slot }) => removeWaitingPlace(slot),
    withdraw: ({ slot }) => withdrawForwarding(slot),
    remove: async ({ slot }) => {
      await removeForwarding(slot);
      await endDatagramFlows(slot);
    },
  };
  for (const action of forwardingActions) {
    app.post<{ Body: NodeForwarding }>(`/node/forwarding/${action}`, { schema: { body: NodeForwarding } }, async (request) => {
      await forwarding[action](request.body);
      return {};
    });
  }
  const Slots = Type.Object({ slots: Type.Array(NodeForwarding.properties.slot, { maxItems: 1_000 }) }, closed);
  app.post<{ Body: { slots: number[] } }>("/node/forwardings/keep", { schema: { body: Slots } }, async (request) => {
    await keepForwardings(request.body.slots);
    return {};
  });
}

/** The same forwarding, as this node would lead it. */
async function resolved({ slot, to, ports, leaving }: NodeForwarding): Promise<Forwarding> {
  return {
    slot,
    leaving,
    ports: ports.map(({ address, port, ...led }) => ({ hostIp: address, hostPort: port, ...led })),
    ...(await wayTo(to)),
  };
}

const ledMs = 15_000;
const silentMs = 300;

/** kube-proxy refuses for a Service whose endpoint it hasn't seen yet. Once it leads to the pod, the hold there is silent. */
async function expectLed(host: string, { port, protocol }: PublishedPort): Promise<void> {
  for (const until = Date.now() + ledMs; Date.now() < until; await sleep(50)) {
    if (!(await (protocol === "tcp" ? isRefused : isDatagramRefused)(host, port))) return;
  }
  throw new UmsError("TIMED_OUT", `Port ${port}/${protocol} of the node does not lead to the pod: does kube-proxy run?`);
}

async function isRefused(host: string, port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect({ host, port });
  socket.setTimeout(silentMs, () => resolve(false));
  socket.on("error", () => resolve(true)).on("connect", () => resolve(false));
  const refused = await promise;
  socket.destroy();
  return refused;
}

/** By the ICMP message that a datagram is answered with. */
async function isDatagramRefused(host: string, port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = createSocket("udp4").on("error", () => resolve(true));
  socket.connect(port, host, () => socket.send(""));
  const timer = setTimeout(() => resolve(false), silentMs);
  const refused = await promise;
  clearTimeout(timer);
  socket.close();
  return refused;
}

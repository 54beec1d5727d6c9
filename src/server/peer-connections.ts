/** Bounds how many connections a paired site holds open. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Server } from "node:https";
import type { Socket } from "node:net";

/**
 * Of more than `most` connections of one site the oldest on which nothing is asked has to go: its client opens another when it
 * needs one. Where each is at work, the newest has to.
 * @returns called with each connection of a site
 */
export function boundConnections(server: Server, most: number): (site: string, socket: Socket) => void {
  const bySite = new Map<string, Set<Socket>>();
  const atWork = new Map<Socket, number>();
  server.on("request", ({ socket }: IncomingMessage, response: ServerResponse) => {
    atWork.set(socket, (atWork.get(socket) ?? 0) + 1);
    response.once("close", () => {
      const left = (atWork.get(socket) ?? 1) - 1;
      if (left === 0) atWork.delete(socket);
      else atWork.set(socket, left);
    });
  });
  // One that carries data is at work until it ends.
  server.on("upgrade", ({ socket }: IncomingMessage) => {
    atWork.set(socket, 1);
    socket.once("close", () => atWork.delete(socket));
  });
  return (site, socket) => {
    const of = bySite.get(site) ?? new Set();
    bySite.set(site, of.add(socket));
    socket.once("close", () => of.delete(socket));
    if (of.size <= most) return;
    const idle = [...of].find((each) => !atWork.has(each)) ?? socket;
    of.delete(idle);
    idle.destroy();
  };
}

/** Bounds what somebody asks on one connection before it is known who that is. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Server } from "node:https";
import type { Socket } from "node:net";

/** Says of a connection that who asked on it may ask once more. */
export type LetAskAgain = (socket: Socket, response: ServerResponse) => void;

/**
 * Lets strangers ask once on a connection: its answer ends it, and a second request, as in a pipeline, ends it at once. Stands
 * before the server's own listeners, as some answers are made before any hook runs.
 * @param isPeers whether a connection is a paired site's, or one of this site's own
 */
export function boundRequests(server: Server, isPeers: (socket: Socket) => boolean): LetAskAgain {
  const asked = new WeakSet<Socket>();
  /** Whether the client wants to keep its connection. */
  const wanted = new WeakMap<ServerResponse, boolean>();
  const listeners = server.listeners("request");
  server.removeAllListeners("request");
  server.on("request", (request: IncomingMessage, response: ServerResponse) => {
    const { socket } = request;
    // The rest of a pipeline, which was read with the request that ended it.
    if (socket.destroyed) return;
    if (!isPeers(socket)) {
      if (asked.has(socket)) return void socket.destroy();
      asked.add(socket);
      wanted.set(response, response.shouldKeepAlive);
      response.shouldKeepAlive = false;
    }
    for (const listener of listeners) listener.call(server, request, response);
  });
  return (socket, response) => {
    asked.delete(socket);
    response.shouldKeepAlive = wanted.get(response) ?? response.shouldKeepAlive;
  };
}

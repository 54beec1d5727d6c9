/** What strangers' handshakes cost: OpenSSL checks every signature of a chain that a client shows, though nobody asks for its verdict. */
import type { TLSSocket } from "node:tls";

/** More than the greeting, one certificate and its proof have. */
const plainBytes = 8 * 1024;
/** More than twice what was seen: 119 ms for a chain of 18 certificates with RSA keys of 16,384 bits, 76 KiB. */
const msPerKiB = 4;
const mostBarred = 4_096;

/**
 * How long a handshake that has ended may have kept the one thread, in milliseconds; 0: no longer than any does.
 * @param bytes what came on the connection until now; after a good handshake some may be a request's
 * @param isChain undefined where the handshake failed, and nobody can say
 */
export function costOf({ bytes, isChain }: { bytes: number; isChain: boolean | undefined }): number {
  return (isChain ?? bytes > plainBytes) ? Math.ceil(bytes / 1024) * msPerKiB : 0;
}

/** Whether a client showed more than its leaf: to be asked first of all, as Node gives out a connection's chain once only. */
export function hasChain(socket: TLSSocket): boolean {
  return socket.getPeerX509Certificate()?.issuerCertificate !== undefined;
}

/** Networks from which nobody gets in for so long. */
export function createBar(barredMs: number, now = Date.now) {
  const until = new Map<string, number>();
  return {
    add(network: string) {
      until.delete(network);
      until.set(network, now() + barredMs);
      const [oldest] = until.keys();
      if (until.size > mostBarred && oldest !== undefined) until.delete(oldest);
    },
    has(network: string): boolean {
      const isBarred = (until.get(network) ?? 0) > now();
      if (!isBarred) until.delete(network);
      return isBarred;
    },
  };
}

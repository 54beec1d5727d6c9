/** Tells systemd, or whoever else has started this process so, that it is ready (sd_notify(3); Type=notify). */
import { execa } from "execa";

/**
 * Takes the way to the supervisor out of the environment, before anything is started that would hand it on: a container that has it
 * could speak for this process.
 * @returns the socket on which the supervisor listens, where there is one
 */
export function takeSupervisor(environment: NodeJS.ProcessEnv): string | undefined {
  const socket = environment["NOTIFY_SOCKET"];
  delete environment["NOTIFY_SOCKET"];
  return socket;
}

/** @throws Error if it can't be told */
export async function sayReady(supervisor: string): Promise<void> {
  // Node has no sockets of this kind. With root's rights the program speaks in its parent's name, of whom alone NotifyAccess=main hears;
  // it need not wait until that is taken note of, as the parent does not end.
  await execa("systemd-notify", ["--no-block", "--ready"], { env: { NOTIFY_SOCKET: supervisor }, timeout: 10_000 });
}

/** What connection tracking remembers of connections and datagrams: where each was led, for as long as packets come. */
import { execa } from "execa";

const timeoutMs = 10_000;

/**
 * Forgets the entries that the options of `conntrack -D` choose: the next packet of each is led anew.
 * @throws ExecaError where conntrack can't do it; none to forget is no error
 */
export async function forgetFlows(selection: readonly string[]): Promise<void> {
  const { exitCode, stderr, message } = await execa("conntrack", ["-D", ...selection], {
    stdin: "ignore",
    stdout: "ignore",
    timeout: timeoutMs,
    reject: false,
  });
  // It fails where nothing matches.
  if (exitCode !== 0 && !stderr.includes("0 flow entries have been deleted")) throw new Error(`conntrack: ${stderr || message}`);
}

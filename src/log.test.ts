import { Writable } from "node:stream";
import { execa } from "execa";
import { expect, test } from "vitest";
import { UmsError } from "./errors.ts";
import { createLog } from "./log.ts";

/** The lines that a log writes, read again. */
function logged(): { log: ReturnType<typeof createLog>; lines: () => unknown[] } {
  let text = "";
  const destination = new Writable({
    write(chunk, _encoding, done) {
      text += String(chunk);
      done();
    },
  });
  const lines = () =>
    text
      .split("\n")
      .filter(Boolean)
      .map((line): unknown => JSON.parse(line));
  return { log: createLog("info", destination), lines };
}

test.each(["cause", "err"])("an error that a line has as “%s” is there with its message, its stack and its own cause", (key) => {
  const { log, lines } = logged();
  const cause = new UmsError("NODE_UNCHANGEABLE", "containerd could not be restarted: nsenter: failed to execute systemctl", {
    cause: new TypeError("deeper"),
  });
  log.warn({ [key]: cause }, "the node can't take pods in");
  expect(lines()).toMatchObject([
    {
      msg: "the node can't take pods in",
      [key]: {
        type: "UmsError",
        code: "NODE_UNCHANGEABLE",
        message: "containerd could not be restarted: nsenter: failed to execute systemctl",
        stack: expect.stringContaining("log.test.ts") as string,
        cause: { type: "TypeError", message: "deeper" },
      },
    },
  ]);
});

test("of a command that failed its complaint is there, and nothing of its input and output", async () => {
  const { log, lines } = logged();
  const failed = await execa("sh", ["-c", 'read secret; echo "$secret"; echo "no systemd" >&2; exit 3'], {
    input: "hunter2",
    reject: false,
  });
  log.warn({ cause: failed }, "a command failed");
  expect(lines()).toMatchObject([{ cause: { type: "ExecaError", message: expect.stringMatching(/exit code 3[^]*no systemd/) as string } }]);
  expect(JSON.stringify(lines())).not.toContain("hunter2");
});

test("an endless chain of causes ends, and what is no error is shown as it is", () => {
  const { log, lines } = logged();
  const circle = new Error("round");
  circle.cause = circle;
  log.warn({ cause: circle }, "a circle");
  log.warn({ cause: "words" }, "words");
  expect(lines()).toMatchObject([{ cause: { cause: { message: "round" } } }, { cause: "words" }]);
});

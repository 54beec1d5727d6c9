import { expect, test } from "vitest";
import { ReplyReader, encodeCommand } from "./resp.ts";

test("a command counts bytes, not characters", () => {
  expect(encodeCommand(["GET", "ä"])).toBe("*2\r\n$3\r\nGET\r\n$2\r\nä\r\n");
});

test("replies come out whole, wherever the stream was cut", () => {
  const stream = Buffer.from("+OK\r\n:42\r\n$-1\r\n*2\r\n$1\r\na\r\n$2\r\n\r\n\r\n-ERR no\r\n");
  const reader = new ReplyReader();
  const replies = [...stream].flatMap((byte) => reader.read(Buffer.from([byte])));
  expect(replies).toEqual(["OK", 42, null, ["a", "\r\n"], new Error("ERR no")]);
});

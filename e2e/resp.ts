/** What Redis answers, as far as the test client asks: errors stay errors, so that no caller takes one for data. */
export type Reply = string | number | null | Error | Reply[];

/** A command in Redis's protocol (RESP 2). */
export function encodeCommand(words: readonly string[]): string {
  return `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("")}`;
}

/** Makes replies of the bytes that come in. */
export class ReplyReader {
  #buffer = Buffer.alloc(0);

  /** @returns the replies that are complete now */
  read(chunk: Buffer): Reply[] {
    this.#buffer = Buffer.concat([this.#buffer, chunk]);
    const replies: Reply[] = [];
    for (let parsed = parse(this.#buffer, 0); parsed; parsed = parse(this.#buffer, 0)) {
      replies.push(parsed.reply);
      this.#buffer = this.#buffer.subarray(parsed.end);
    }
    return replies;
  }
}

function parse(buffer: Buffer, start: number): { reply: Reply; end: number } | undefined {
  const lineEnd = buffer.indexOf("\r\n", start);
  if (lineEnd < 0) return undefined;
  const line = buffer.toString("utf8", start + 1, lineEnd);
  const end = lineEnd + 2;
  switch (String.fromCharCode(buffer[start] ?? 0)) {
    case "+":
      return { reply: line, end };
    case "-":
      return { reply: new Error(line), end };
    case ":":
      return { reply: Number(line), end };
    case "$": {
      const length = Number(line);
      if (length < 0) return { reply: null, end };
      if (buffer.length < end + length + 2) return undefined;
      return { reply: buffer.toString("utf8", end, end + length), end: end + length + 2 };
    }
    case "*": {
      const items: Reply[] = [];
      let at = end;
      for (let left = Number(line); left > 0; left--) {
        const item = parse(buffer, at);
        if (!item) return undefined;
        items.push(item.reply);
        at = item.end;
      }
      return { reply: items, end: at };
    }
    default:
      throw new Error(`not a Redis reply: ${JSON.stringify(line)}`);
  }
}

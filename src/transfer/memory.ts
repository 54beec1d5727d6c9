/** A memory image: sent while CRIU still writes it, stored as it comes. */
import { closeSync, constants, fstatSync, openSync, readdirSync, writeSync, writevSync } from "node:fs";
import { mkdir, open, rm, stat, statfs } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { UmsError } from "../errors.ts";
import type { Sender } from "./channel.ts";

const pollMs = 2;
/** CRIU appends to these and never goes back; every other image is small and may still change until the dump ends. */
const growing = /^pages-\d+\.img$/;

/**
 * Sends a directory of images while `dump` fills it; resolves when all of it has been sent.
 * @param dump settles when the directory is complete
 * @param options.under the directory below the receiver's own in which it goes: one for each of several images
 */
export async function sendWhileDumped(
  sender: Sender,
  directory: string,
  dump: Promise<void>,
  { under = "" }: { under?: string } = {},
): Promise<void> {
  let dumping = true;
  const finished = dump.finally(() => (dumping = false));
  finished.catch(() => undefined); // awaited below
  const files = new Map<string, { descriptor: number; sent: number }>();
  const follow = async (pattern: RegExp): Promise<boolean> => {
    let progressed = false;
    for (const file of readdirSync(directory)) {
      if (!pattern.test(file)) continue;
      let state = files.get(file);
      if (!state) files.set(file, (state = { descriptor: openSync(path.join(directory, file), "r"), sent: 0 }));
      const { size } = fstatSync(state.descriptor);
      if (size === state.sent) continue;
      await sender.memory({ file: under === "" ? file : `${under}/${file}`, descriptor: state.descriptor, from: state.sent, to: size });
      state.sent = size;
      progressed = true;
    }
    return progressed;
  };
  try {
    while (dumping) if (!(await follow(growing))) await sleep(pollMs);
    await finished;
    await follow(/./);
  } finally {
    for (const { descriptor } of files.values()) closeSync(descriptor);
  }
}

export type MemoryStore = Readonly<{
  /** @returns whether the file is a new one @throws UmsError BAD_REQUEST, PEER_FAILED once it is closed */
  write(part: { file: string; offset: number }, chunk: Buffer): boolean;
  /** Writes what has been gathered; all that was given before is in the files then. */
  flush(): void;
  close(): void;
}>;

/** TLS hands over 16 KiB at a time; written one by one, the calls would cost as much as the copying. */
const gatherBytes = 512 << 10;

/** Files that are open at the same time: the sender says how many there are. */
const maxOpen = 128;

/** Stores the parts of an image in a directory, or of several in directories below it, which are there already. */
export function openMemoryStore(directory: string): MemoryStore {
  const names = new Set<string>();
  /** The one that was opened last comes last. */
  const descriptors = new Map<string, number>();
  let closed = false;
  let gathered: { descriptor: number; offset: number; chunks: Buffer[]; bytes: number } | undefined;

  const descriptorOf = (file: string) => {
    let descriptor = descriptors.get(file);
    if (descriptor === undefined) {
      if (closed) throw new UmsError("PEER_FAILED", "Memory came after its image was complete.");
      if (!/^([a-z0-9][a-z0-9-]*\/)?[a-zA-Z0-9][a-zA-Z0-9._-]*$/.test(file))
        throw new UmsError("BAD_REQUEST", "A memory image has a name that CRIU doesn't give.");
      if (descriptors.size >= maxOpen) closeOldest();
      descriptors.set(file, (descriptor = openSync(path.join(directory, file), names.has(file) ? "r+" : "w", 0o600)));
      names.add(file);
    }
    return descriptor;
  };
  const closeOldest = () => {
    flush();
    for (const [file, descriptor] of [...descriptors].slice(0, 1)) {
      closeSync(descriptor);
      descriptors.delete(file);
    }
  };
  const flush = () => {
    if (!gathered) return;
    const { descriptor, offset, chunks, bytes } = gathered;
    gathered = undefined;
    const written = writevSync(descriptor, chunks, offset);
    // A file system that is full writes a part, and fails at the next.
    if (written < bytes) {
      const rest = Buffer.concat(chunks).subarray(written);
      for (let done = 0; done < rest.length;) done += writeSync(descriptor, rest, done, rest.length - done, offset + written + done);
    }
  };
  return {
    write({ file, offset }, chunk) {
      const isNew = !names.has(file);
      const descriptor = descriptorOf(file);
      if (gathered && (gathered.descriptor !== descriptor || gathered.offset + gathered.bytes !== offset)) flush();
      gathered ??= { descriptor, offset, chunks: [], bytes: 0 };
      gathered.chunks.push(chunk);
      gathered.bytes += chunk.length;
      if (gathered.bytes >= gatherBytes) flush();
      return isNew;
    },
    flush,
    close() {
      closed = true;
      gathered = undefined;
      for (const descriptor of descriptors.values()) closeSync(descriptor);
      descriptors.clear();
    },
  };
}

/** Room for CRIU's other images beside the pages, and for growth until the freeze. */
export const imageSlackBytes = 64 << 20;

/**
 * Makes a directory for the image of so much memory in the first of the candidates that is ours and has room.
 * @throws UmsError NO_ROOM
 */
export async function makeImageDirectory(candidates: readonly string[], id: string, memoryBytes: number): Promise<string> {
  const bytes = memoryBytes + imageSlackBytes;
  for (const candidate of candidates) {
    if (!(await isOurs(candidate))) continue;
    const { bavail, bsize } = await statfs(candidate);
    if (bavail * bsize < bytes) continue;
    const directory = path.join(candidate, id);
    const make = () => rm(directory, { recursive: true, force: true }).then(() => mkdir(directory, { mode: 0o700 }));
    if (await unlessReadOnly(make())) return directory;
  }
  throw new UmsError("NO_ROOM", `No directory for memory images has ${Math.ceil(bytes / 2 ** 20)} MiB of room: ${candidates.join(", ")}.`);
}

/**
 * Makes a directory of memory images, where it lacks, root's alone. In a place where everybody may make one (/dev/shm),
 * somebody else may have been first, and would choose what is restored.
 * @returns false where it is another's, where another could put one of his own in its place, or where it can't be closed to others
 */
export async function isOurs(directory: string): Promise<boolean> {
  await mkdir(directory, { recursive: true, mode: 0o700 }).catch(() => undefined);
  const { uid, mode } = await stat(path.dirname(directory));
  const isOpenToAll = (mode & 0o022) !== 0 && (mode & 0o1000) === 0;
  if (uid !== 0 || isOpenToAll) return false;
  const opened = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW).catch(() => undefined);
  if (!opened) return false;
  try {
    const { uid: owner, mode: access } = await opened.stat();
    return owner === 0 && ((access & 0o777) === 0o700 || (await unlessReadOnly(opened.chmod(0o700))));
  } finally {
    await opened.close();
  }
}

/** @returns false where nothing can be changed on that file system */
async function unlessReadOnly(change: Promise<unknown>): Promise<boolean> {
  try {
    await change;
    return true;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EROFS") return false;
    throw cause;
  }
}

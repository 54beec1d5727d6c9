import type { Command } from "commander";
import type { Client } from "./client.ts";
import type { Terminal } from "./terminal.ts";

/** What a verb works with. */
export type Session = Readonly<{
  client: Client;
  /** Of this process. */
  environment: NodeJS.ProcessEnv;
  terminal: Terminal;
  /** Aborts at the first Ctrl-C, for verbs that wait. */
  interrupted(): AbortSignal;
  /** What a person types or pipes in, one line. */
  readLine(question: string): Promise<string>;
}>;

/** Answers the exit code; undefined is 0. */
export type Action<Arguments extends unknown[]> = (session: Session, ...values: Arguments) => Promise<number | void>;

/** Makes of an action what commander calls. */
export type Act = <Arguments extends unknown[]>(action: Action<Arguments>) => (...values: Arguments) => Promise<void>;

/** One file a verb, each with one of these. */
export type Verb = (program: Command, act: Act) => void;

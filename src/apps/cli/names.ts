/** What was typed is checked before it is sent, by the patterns of the API's schema. */
import { InvalidArgumentError } from "commander";
import type { Accept } from "../../accept-form.ts";
import { nothing } from "../../accept.ts";
import { parseAddress } from "../../protocol/address.ts";
import { migrationIdPattern, namespacePattern, serviceNamePattern, siteNamePattern } from "../../protocol/names.ts";

const matching = (pattern: string, what: string) => (text: string) => {
  if (!new RegExp(pattern).test(text)) throw new InvalidArgumentError(`It is not ${what}.`);
  return text;
};

export const serviceName = matching(serviceNamePattern, "a container's name");
export const namespaceName = matching(namespacePattern, "a namespace's name");
export const siteName = matching(siteNamePattern, "a site's name");
export const migrationId = matching(migrationIdPattern, "a migration's id");
const absolutePath = matching("^/(?!.*(^|/)\\.\\.(/|$))[^\\u0000]*$", "an absolute path without “..”");

export function address(text: string): string {
  try {
    parseAddress(text);
  } catch {
    throw new InvalidArgumentError("It is not of the form host:port.");
  }
  return text;
}

/** For an option that may be repeated. */
export function absolutePaths(text: string, before: string[] = []): string[] {
  return [...before, absolutePath(text)];
}

export function seconds(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || value < 0) throw new InvalidArgumentError("It is not a number of seconds.");
  return value;
}

/** What a site may send: `none`, or JSON, of which the coordinator knows the fields. */
export function policy(text: string): Accept {
  if (text === "none") return nothing;
  try {
    return JSON.parse(text) as Accept;
  } catch {
    throw new InvalidArgumentError("It is neither “none” nor JSON.");
  }
}

export const policyOrDefault = (text: string) => (text === "default" ? text : policy(text));

import { expect, test } from "vitest";
import { readAccept } from "./accept-form.ts";
import { accepting, inWords, nothing } from "./accept.ts";

test("what is said later counts, field by field, and what nobody says is as usual", () => {
  expect(accepting()).toMatchObject({ namespaces: ["*"], images: ["*"], capabilities: [], privileged: false });
  const site = { capabilities: ["CAP_NET_ADMIN"], images: ["quay.io/*"] };
  expect(accepting(site, { images: [] })).toMatchObject({ capabilities: ["CAP_NET_ADMIN"], images: [], unconfined: false });
  expect(accepting(site, undefined)).toMatchObject(site);
});

test("it is written as JSON, or as one word", () => {
  expect(readAccept("none", "x")).toEqual(nothing);
  expect(readAccept('{"namespaces": ["team-*"]}\n', "x")).toEqual({ namespaces: ["team-*"] });
});

test.each([
  ["all", "x is neither “none” nor JSON"],
  ['{"privileged": "yes"}', "x: “privileged” must be boolean"],
  ['{"capabilities": ["NET_ADMIN"]}', "x: “capabilities.0” must match pattern"],
  ['{"hostNetwork": true}', "x: “hostNetwork” is no field"],
  ["[]", "x: it must be object"],
])("%s is refused by the field's name", (text, message) => {
  expect(() => readAccept(text, "x")).toThrow(
    expect.objectContaining({ code: "BAD_CONFIGURATION", message: expect.stringContaining(message) }),
  );
});

test("a person reads what isn't as usual", () => {
  expect(inWords(accepting())).toBe("as any");
  expect(inWords(accepting({ namespaces: ["*"], privileged: false }))).toBe("as any");
  expect(inWords(accepting(nothing, { privileged: true }))).toBe("nothing");
  expect(inWords(accepting({ namespaces: ["team-*", "shop"], images: [], capabilities: ["CAP_NET_ADMIN"], privileged: true }))).toBe(
    "namespaces team-*,shop; images none; capabilities CAP_NET_ADMIN; privileged",
  );
});

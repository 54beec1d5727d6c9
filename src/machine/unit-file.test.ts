import { expect, test } from "vitest";
import { unitFileOf, writtenIn } from "./unit-file.ts";

test("a unit's file is the one that a person has written, and not what a generator made of it", async () => {
  const quadlet = "FragmentPath=/run/systemd/generator/web.service\nSourcePath=/etc/containers/systemd/web.container\n";
  expect(writtenIn(quadlet)).toBe("/etc/containers/systemd/web.container");
  expect(writtenIn("FragmentPath=/etc/systemd/system/container-web.service\nSourcePath=\n")).toBe(
    "/etc/systemd/system/container-web.service",
  );
  expect(writtenIn("FragmentPath=\nSourcePath=\n")).toBeUndefined();
  expect(await unitFileOf("ums-no-such.service")).toBeUndefined();
});

import { describe, expect, test } from "vitest";
import { mergeSettings } from "./containers-conf.ts";

describe("containers.conf", () => {
  test("adds runtimes up and lets later files decide on hooks", () => {
    const settings = mergeSettings([
      '[engine]\nhooks_dir = ["/a"] # the first\n[engine.runtimes]\nrunc = [\n  "/usr/bin/runc",\n  "/usr/sbin/runc",\n]\n',
      '# [engine.runtimes]\n[containers]\nums = ["/wrong"]\n[engine.runtimes]\nums = ["/opt/ums/bin/ums-runc"]\n[engine]\nhooks_dir = ["/b", \'/c\']',
    ]);
    expect(settings).toEqual({
      runtimes: { runc: ["/usr/bin/runc", "/usr/sbin/runc"], ums: ["/opt/ums/bin/ums-runc"] },
      hooksDirectories: ["/b", "/c"],
    });
  });

  test("without a word about hooks Podman has its own directories", () => {
    expect(mergeSettings([""]).hooksDirectories).toContain("/usr/share/containers/oci/hooks.d");
  });
});

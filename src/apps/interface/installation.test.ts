import { expect, test } from "vitest";
import { withRuntime } from "./installation.ts";

const stock = "version = 3\n[plugins.'io.containerd.cri.v1.runtime']\n  restrict_oom_score_adj = true\n";

test("a node's configuration keeps what it has, and gets the runtime at its end", () => {
  const configured = withRuntime(stock, "2.1.9");
  expect(configured.startsWith(stock)).toBe(true);
  expect(configured).toContain("[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.ums]");
  expect(configured).toContain("BinaryName = '/opt/ums/bin/ums-runc'");
});

test("configuring twice is the same as once, and a newer UMS replaces what an older one wrote", () => {
  const once = withRuntime(stock, "2.1.9");
  expect(withRuntime(once, "2.1.9")).toBe(once);
  expect(withRuntime(once.replace("ums-runc", "older"), "2.1.9")).toBe(once);
});

test("containerd 1 knows the plugin by its older name, also where there was no configuration", () => {
  const configured = withRuntime("", "1.7.24");
  expect(configured).toMatch(/^version = 2\n/);
  expect(configured).toContain("[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.ums]");
});

test("cgroups are made by whatever makes those of the node's other containers", () => {
  expect(withRuntime(`${stock}  SystemdCgroup = true\n`, "2.1.9")).toContain("SystemdCgroup = true\n# END ums");
  expect(withRuntime(stock, "2.1.9")).toContain("SystemdCgroup = false\n# END ums");
});

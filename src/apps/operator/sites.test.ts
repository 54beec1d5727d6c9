import { expect, onTestFinished, test } from "vitest";
import { openTrustFiles } from "../../trust/files.ts";
import { temporaryDirectory } from "../../trust/temporary-directory-for-tests.ts";
import { openTrust } from "../../trust/trust.ts";
import { createSites } from "./sites.ts";

test("where two sites say that they have an address, it is the one with which a migration has begun, or nobody", async () => {
  const open = async (name: string) => {
    const trust = await openTrust(openTrustFiles(temporaryDirectory()), name);
    onTestFinished(() => trust.close());
    return trust;
  };
  const [own, ...others] = [await open("a"), await open("b"), await open("evil")];
  for (const { siteName, certificate } of others) await own.addPeer({ name: siteName, certificate, addresses: ["b.example:7443"] });
  const sites = createSites(own, { coordinatorAddress: "127.0.0.1:1" });
  onTestFinished(() => sites.close());
  expect(sites.find("b.example:7443", "b").name).toBe("b");
  expect(sites.find("b.example:7443", "evil").name).toBe("evil");
  for (const begun of [undefined, "gone"])
    expect(() => sites.find("b.example:7443", begun)).toThrow(expect.objectContaining({ code: "SITE_NOT_FOUND" }));
  expect(sites.find("evil", "b").name).toBe("evil");
});

import { onTestFinished, expect, test } from "vitest";
import { openTrustFiles } from "../trust/files.ts";
import { temporaryDirectory } from "../trust/temporary-directory-for-tests.ts";
import { openTrust } from "../trust/trust.ts";
import { followPeerAddresses, plainAddress } from "./peer-addresses.ts";

async function start(addresses: string[]) {
  const open = async (name: string) => await openTrust(openTrustFiles(temporaryDirectory()), name);
  const [alpha, beta] = [await open("alpha"), await open("beta")];
  await beta.addPeer({ name: "alpha", certificate: alpha.certificate, addresses });
  const followed = followPeerAddresses(beta);
  onTestFinished(() => {
    followed.close();
    for (const trust of [alpha, beta]) trust.close();
  });
  return { followed, beta };
}

test("a peer's address is known in any spelling, and by its name", async () => {
  const { followed } = await start(["[2001:DB8:0:0::7]:7443", "localhost:7443", "nowhere.invalid:7443"]);
  expect(followed.has(plainAddress("2001:db8::7"))).toBe(true);
  await expect.poll(() => followed.has(plainAddress("::ffff:127.0.0.1")) || followed.has("::1")).toBe(true);
  expect(followed.has("192.0.2.1")).toBe(false);
});

test("from where a peer has called it may call again, while it is a peer; of ever more such addresses the newest stay", async () => {
  const { followed, beta } = await start(["192.0.2.1:7443"]);
  for (let at = 0; at < 1_025; at++) followed.remember(`10.0.${at >> 8}.${at & 255}`, "alpha");
  expect(["10.0.0.0", "10.0.0.1", "10.0.4.0"].map((each) => followed.has(each))).toEqual([false, true, true]);
  await beta.removePeer("alpha");
  followed.peersChanged();
  expect(["10.0.0.1", "192.0.2.1"].map((each) => followed.has(each))).toEqual([false, false]);
});

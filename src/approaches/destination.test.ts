import { expect, test, vi } from "vitest";
import { UmsError } from "../errors.ts";
import type { PeerClient, PeerRequest } from "../trust/peer-client.ts";
import { createDestinationSite } from "./destination.ts";

test("a destination that was away when its commit was acknowledged is told again, while nobody waits for that", async () => {
  const request = vi.fn(async (_: PeerRequest) => undefined);
  request.mockRejectedValueOnce(new UmsError("SITE_UNREACHABLE", "It is away."));
  const site = createDestinationSite({ request } as unknown as PeerClient, "0123456789ab", { requestMs: 1_000, restoreMs: 1_000 });
  await site.acknowledge();
  expect(request).toHaveBeenCalledTimes(1);
  await vi.waitFor(() => expect(request).toHaveBeenCalledTimes(2), { timeout: 10_000 });
  expect(request.mock.lastCall?.[0]).toMatchObject({ method: "POST", path: "/peer/migrations/0123456789ab/acknowledge" });
});

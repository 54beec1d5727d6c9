/** `live-migration`: a pod moves to another site, or to another node of this cluster. */
import { copyName } from "../../../approaches/orchestrator-level/snapshot.ts";
import { UmsError } from "../../../errors.ts";
import { pods } from "../../../platforms/kubernetes/kinds.ts";
import { migrationName } from "../../../platforms/kubernetes/migration.ts";
import type { Podmigration } from "../../../platforms/kubernetes/podmigration.ts";
import type { Trust } from "../../../trust/trust.ts";
import type { PodmigrationParts, Work } from "./action.ts";
import { idOf, makeMigration } from "./migrations.ts";

/** @throws UmsError for which it can't be carried out */
export async function beginLiveMigration(
  { cluster, trust, interfaces }: PodmigrationParts,
  object: Podmigration,
  { begun }: Work,
): Promise<undefined> {
  const { namespace = "default" } = object.metadata;
  const { sourcePod, destHost } = object.spec;
  if (sourcePod === undefined || destHost === undefined)
    throw new UmsError("BAD_REQUEST", "A live-migration needs sourcePod and destHost.");
  const id = idOf(object);
  const site = siteOf(destHost, trust);
  const isNode = interfaces.all().some(({ node }) => node === destHost);
  if (site === undefined && !isNode)
    throw new UmsError("SITE_NOT_FOUND", `${destHost} is no node with UMS's interface here, and no paired site has that name or address.`);
  const nodeName = (await cluster.get(pods, sourcePod, { namespace }))?.spec?.nodeName;
  if (site === undefined && nodeName === destHost) throw new UmsError("BAD_REQUEST", `Pod ${sourcePod} runs on node ${destHost} already.`);
  const destination =
    site === undefined
      ? { destination: trust.siteName, node: destHost, rename: copyName(sourcePod, id.slice(0, 4)) }
      : { destination: site };
  await begun({ activePod: sourcePod, currentRevision: migrationName(id) });
  await makeMigration(cluster, object, { pod: sourcePod, ...destination, id, count: 1 });
}

/** The site that `destHost` names: by its name, by an address, or by an address' host, where that is one site's alone. */
function siteOf(destHost: string, trust: Pick<Trust, "peers">): string | undefined {
  const wanted = destHost.toLowerCase();
  const peers = trust.peers();
  const exact = peers.find(({ name, addresses }) => name === wanted || addresses.some((address) => address.toLowerCase() === wanted));
  if (exact) return exact.name;
  const onHost = peers.filter(({ addresses }) => addresses.some((address) => address.toLowerCase().replace(/:\d+$/, "") === wanted));
  return onHost.length === 1 ? onHost[0]?.name : undefined;
}

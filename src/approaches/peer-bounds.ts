/** What one paired site may take up of the migrations that come to a site, whatever kind of site that is. */

/** So many of a site's ids that came to nothing are remembered, the newest ones: more than it can have on their way. */
export const rememberedOfPeer = 200;

/** One site can't take all places where others are paired. @param peers all sites that are paired */
export const placesOfPeer = (peer: string, { peers, all }: { peers: readonly { name: string }[]; all: number }): number =>
  peers.some(({ name }) => name !== peer) ? Math.max(1, Math.floor(all / 2)) : all;

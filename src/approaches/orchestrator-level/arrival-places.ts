/** How many migrations come to a cluster at once, of all sites and of one. */
import { UmsError } from "../../errors.ts";
import { sharedLook } from "../../shared-look.ts";

/** One that is under way; its record may not be made yet. */
type Arrival = Readonly<{ id: string; peer: string }>;

export type ArrivalPlaces = Readonly<{
  /** Takes a place until `make` has made the record, which holds it from then on. @throws UmsError SITE_BUSY */
  during(arrival: Arrival, make: () => Promise<void>): Promise<void>;
}>;

/**
 * Counts what the records tell and what this process is about to add to them.
 * @param options.open those whose records say that they have not ended
 * @param options.most places of all sites together
 * @param options.mostOf places of one site; undefined: it needs none
 */
export function createArrivalPlaces({
  open,
  most,
  mostOf,
}: {
  open: () => Promise<readonly Arrival[]>;
  most: number;
  mostOf: (peer: string) => number | undefined;
}): ArrivalPlaces {
  const held = new Set<{ arrival: Arrival; recorded: boolean }>();
  const look = sharedLook(async () => {
    // A look that had begun before the record was made may not tell it: until one begins after that, it stays held.
    const told = [...held].filter(({ recorded }) => recorded);
    const arrivals = await open();
    for (const each of told) held.delete(each);
    return arrivals;
  });
  return {
    async during(arrival, make) {
      const mostOfIt = mostOf(arrival.peer);
      if (mostOfIt === undefined) return await make();
      const known = await look();
      expectPlace(arrival, [...known, ...[...held].map((each) => each.arrival)]);
      const place = { arrival, recorded: false };
      held.add(place);
      try {
        await make();
        place.recorded = true;
      } finally {
        if (!place.recorded) held.delete(place);
      }
    },
  };

  function expectPlace({ id, peer }: Arrival, all: readonly Arrival[]): void {
    const others = new Map(all.filter((each) => each.id !== id && mostOf(each.peer) !== undefined).map((each) => [each.id, each]));
    if (others.size >= most) throw new UmsError("SITE_BUSY", `This site takes ${most} migrations at once.`);
    const mostOfIt = mostOf(peer) ?? most;
    if ([...others.values()].filter((each) => each.peer === peer).length >= mostOfIt)
      throw new UmsError("SITE_BUSY", `This site takes ${mostOfIt} migrations of one site at once, so that others can come.`);
  }
}

import { expect, test } from "vitest";
import { containerNeed } from "../approaches/translation/needs-for-tests.ts";
import { differences, lacking } from "./spec.ts";

const { spec } = containerNeed();
const engines = {
  ...spec,
  env: { TERM: "xterm" },
  labels: { ...spec.labels, maintainer: "somebody" },
  limits: { ...spec.limits, memoryReservationBytes: 7 },
  groups: ["5"],
  volumes: spec.volumes.map((volume) => ({ ...volume, options: ["rbind"] })),
};

test("what an engine adds to what says nothing is a difference, and no lack", () => {
  const wanted = { ...spec, volumes: spec.volumes.map((volume) => ({ ...volume, options: [] })) };
  expect(differences(wanted, engines).toSorted()).toEqual(["env", "groups", "labels", "limits", "volumes"]);
  expect(lacking(wanted, engines)).toEqual([]);
});

test("what is not as it was wanted is lacking", () => {
  const wanted = { ...spec, env: { COLOUR: "green" }, readOnly: true, volumes: [], limits: { ...spec.limits, pids: 5 } };
  expect(lacking(wanted, spec).toSorted()).toEqual(["env", "limits", "readOnly"]);
  expect(lacking(spec, { ...spec, volumes: [] })).toEqual(["volumes"]);
});

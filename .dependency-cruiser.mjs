/** Which folder may import which: inward only (CONTRIBUTING.md tells why). */
const tests = "\\.(test|contract)\\.ts$|(^|/)fake-|-for-tests\\.ts$|/model-world\\.ts$";

/** @type {import("dependency-cruiser").IConfiguration} */
export default {
  forbidden: [
    { name: "no-circle", severity: "error", from: {}, to: { circular: true } },
    {
      name: "engine-is-pure",
      comment: "The engine knows no Kubernetes, Podman, CRIU, clock or file.",
      severity: "error",
      from: { path: "^src/engine/", pathNot: tests },
      to: { pathNot: "^src/engine/" },
    },
    {
      name: "protocol-is-a-floor",
      comment: "What crosses between sites knows none of those who send or take it.",
      severity: "error",
      from: { path: "^src/protocol/", pathNot: tests },
      to: { path: "^src/(?!protocol/|errors\\.ts$)" },
    },
    {
      name: "no-sibling-app",
      comment: "Apps share what they need through the folders below them. The CLI starts the others and speaks their schema.",
      severity: "error",
      from: { path: "^src/apps/([^/]+)/", pathNot: `^src/apps/cli/|${tests}` },
      to: { path: "^src/apps/([^/]+)/", pathNot: "^src/apps/$1/" },
    },
    {
      name: "inward-from-apps",
      severity: "error",
      from: { path: "^src/(?!apps/)[^/]+/", pathNot: tests },
      to: { path: "^src/apps/" },
    },
    {
      name: "inward-from-approaches-and-platforms",
      severity: "error",
      from: { path: "^src/(?!apps/|approaches/|platforms/)[^/]+/", pathNot: tests },
      to: { path: "^src/(approaches|platforms)/" },
    },
    {
      name: "preflight-knows-no-engine",
      comment: "What it asks of a container engine stands in the port.",
      severity: "error",
      from: { path: "^src/preflight/", pathNot: tests },
      to: { path: "^src/container-engines/[^/]+/" },
    },
    {
      name: "adapters-judge-in-lines",
      comment: "Of the preflight, an engine has the form of a check's line alone.",
      severity: "error",
      from: { path: "^src/(container-engines|machine)/", pathNot: tests },
      to: { path: "^src/preflight/(?!check\\.ts$|once-passed\\.ts$)" },
    },
    {
      name: "product-without-tests",
      severity: "error",
      from: { path: "^src/", pathNot: tests },
      to: { path: `^(e2e|bench|setup)/|${tests}` },
    },
    {
      name: "product-without-dev-dependencies",
      severity: "error",
      from: { path: "^src/", pathNot: tests },
      to: { dependencyTypes: ["npm-dev"], dependencyTypesNot: ["type-only"], pathNot: "@types/" },
    },
    { name: "resolvable", severity: "error", from: {}, to: { couldNotResolve: true } },
    {
      name: "no-orphan",
      severity: "error",
      from: { orphan: true, pathNot: "\\.test\\.ts$|/main\\.ts$|^(setup|bench|e2e)/[^/]+\\.ts$" },
      to: {},
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsConfig: { fileName: "tsconfig.json" },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "node", "default", "types"] },
  },
};

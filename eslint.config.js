import eslint from "@eslint/js";
import { defineConfig, globalIgnores } from "eslint/config";
import tseslint from "typescript-eslint";

const environment = {
  object: "process",
  property: "env",
  message: "Configuration is read once, in the app's main.ts, and passed down.",
};

export default defineConfig(
  globalIgnores(["dist/", "bench/out/"]),
  eslint.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.recommendedTypeChecked],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      "no-restricted-properties": ["error", environment],
      "@typescript-eslint/consistent-type-imports": ["error", { fixStyle: "inline-type-imports" }],
      "@typescript-eslint/no-deprecated": "error",
      "@typescript-eslint/no-non-null-assertion": "error",
      "@typescript-eslint/no-unnecessary-condition": ["error", { allowConstantLoopConditions: true }],
      "@typescript-eslint/only-throw-error": "error",
      "@typescript-eslint/return-await": ["error", "error-handling-correctness-only"],
      "@typescript-eslint/switch-exhaustiveness-check": ["error", { considerDefaultExhaustiveForUnions: true }],
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_", ignoreRestSiblings: true }],
      // A fake, or one of several adapters, is async because its port is.
      "@typescript-eslint/require-await": "off",
      "max-lines": ["error", { max: 400 }],
      "max-lines-per-function": ["error", { max: 120 }],
      // Numbers in messages need no conversion.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true, allowBoolean: true, allowRegExp: true }],
    },
  },
  {
    // A wrong type in a test fails the test.
    files: ["**/*.test.ts", "**/*.contract.ts"],
    rules: Object.fromEntries(
      ["argument", "assignment", "call", "member-access", "return"]
        .map((name) => `@typescript-eslint/no-unsafe-${name}`)
        .concat("@typescript-eslint/no-explicit-any", "@typescript-eslint/no-non-null-assertion", "@typescript-eslint/unbound-method")
        .map((rule) => [rule, "off"]),
    ),
  },
  {
    // Written before there was a limit. This list only shrinks.
    files: [
      "e2e/{disturbance,kubernetes.e2e.test,kubernetes-api.e2e.test,kubernetes-platform.e2e.test}.ts",
      "src/apps/coordinator/{arrivals,cluster,host,http,peer-server.test}.ts",
      "src/apps/operator/{carrier,forwardings}.ts",
      "src/approaches/container-level/{incoming,outgoing}.ts",
      "src/approaches/orchestrator-level/{incoming,outgoing}.ts",
      "src/approaches/orchestrator-level/node/{arriving,leaving,snapshots,snapshots.test}.ts",
      "src/container-engines/podman/{describe,podman}.ts",
      "src/engine/{migrate.test,model-world}.ts",
      "src/errors.ts",
      "src/platforms/kubernetes/{client,journal}.ts",
      "src/platforms/podman-host/database.ts",
      "src/trust/trust.ts",
    ],
    rules: { "max-lines": "off", "max-lines-per-function": "off" },
  },
  { files: ["src/apps/**/main.ts", "setup/**", "e2e/**", "bench/**", "**/*.test.ts"], rules: { "no-restricted-properties": "off" } },
);

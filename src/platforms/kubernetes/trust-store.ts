/** A site's keys and peers in a Secret. deploy/kubernetes/rbac.yml brings them, empty. */
import type { TrustStore } from "../../trust/store.ts";
import { type Cluster, ClusterError } from "./client.ts";
import { type Secret, secrets } from "./kinds.ts";

/** Whose reader can speak for the site. */
export const trustSecretName = "ums-trust";
/** What the nodes may know of it. */
export const nodeTrustSecretName = "ums-trust-nodes";

/** @param options.signal ends the waits of the store's calls */
export function openTrustSecret(
  cluster: Cluster,
  {
    secretName = trustSecretName,
    namespace = cluster.namespace,
    signal,
    onTrouble,
  }: { secretName?: string; namespace?: string; signal: AbortSignal; onTrouble?: (error: unknown) => void },
): TrustStore {
  const options = { namespace, signal };
  /** Of the newest content that this process has seen or made. */
  let newest = 0n;
  const note = ({ metadata }: Secret) => {
    const version = BigInt(metadata?.resourceVersion ?? 0);
    if (version > newest) newest = version;
    return version >= newest;
  };

  return {
    placeOf: (name) => `${name} of the Secret ${namespace}/${secretName}`,

    async read() {
      const secret = await cluster.get(secrets, secretName, options);
      if (secret) note(secret);
      return entriesOf(secret);
    },

    async update(name, change) {
      while (true) {
        const secret = await cluster.get(secrets, secretName, options);
        const before = entriesOf(secret).get(name);
        const after = change(before);
        if (after === before) return after;
        const data = { [name]: after === undefined ? null : Buffer.from(after).toString("base64") };
        try {
          if (secret) {
            const { resourceVersion, uid } = secret.metadata ?? {};
            note(await cluster.patch(secrets, secretName, { metadata: { resourceVersion, uid }, data }, options));
          } else {
            const made = { metadata: { name: secretName }, type: "Opaque", data: data as { [name: string]: string } };
            note(await cluster.create(secrets, made, options));
          }
          return after;
        } catch (error) {
          // Somebody else was quicker: what shall be depends on what they wrote.
          if (!(error instanceof ClusterError && ["OBJECT_EXISTS", "OBJECT_CHANGED", "OBJECT_GONE"].includes(error.code))) throw error;
        }
      }
    },

    watch(listener) {
      const stop = new AbortController();
      const until = AbortSignal.any([signal, stop.signal]);
      const selection = { namespace, fieldSelector: `metadata.name=${secretName}`, signal: until };
      void (async () => {
        for await (const { type, object } of cluster.watch(secrets, { ...selection, ...(onTrouble ? { onTrouble } : {}) })) {
          // A Secret that is gone comes back with the next write; nobody is unpaired by an accident. And the watch may
          // lag behind what this process has written itself.
          if (type === "present" && note(object)) listener(entriesOf(object));
        }
      })();
      return () => stop.abort();
    },
  };
}

function entriesOf(secret: Secret | undefined): ReadonlyMap<string, string> {
  return new Map(Object.entries(secret?.data ?? {}).map(([name, data]) => [name, Buffer.from(data, "base64").toString()]));
}

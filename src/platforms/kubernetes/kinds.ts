/** The kinds of objects that UMS handles, as they are on the wire. */
import type {
  CoreV1Event,
  V1ConfigMap,
  V1CustomResourceDefinition,
  V1EndpointSlice,
  V1Lease,
  V1Namespace,
  V1Node,
  V1Pod,
  V1Secret,
  V1Service,
} from "@kubernetes/client-node";

/** client-node's types are of parsed objects; JSON has strings for dates. */
export type Wire<T> = T extends Date ? string : T extends object ? { [K in keyof T]: Wire<T[K]> } : T;

export type Pod = Wire<V1Pod>;
export type Service = Wire<V1Service>;
export type Secret = Wire<V1Secret>;
export type Lease = Wire<V1Lease>;

/** What every object has. */
export type Metadata = {
  name?: string;
  generateName?: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  finalizers?: string[];
  labels?: { [key: string]: string };
  annotations?: { [key: string]: string };
  ownerReferences?: OwnerReference[];
};
export type OwnerReference = { apiVersion: string; kind: string; name: string; uid: string };
export type KubernetesObject = { apiVersion?: string; kind?: string; metadata?: Metadata };

/** Where the objects of one kind are found; the type of such an object comes with it. */
export type Kind<T extends object> = Readonly<{
  apiVersion: string;
  kind: string;
  plural: string;
  /** False for kinds that belong to the whole cluster. */
  namespaced: boolean;
  /** Never there: it carries the type. */
  example?: T;
}>;

export function kind<T extends object>(apiVersion: string, name: string, plural: string, namespaced = true): Kind<T> {
  return { apiVersion, kind: name, plural, namespaced };
}

export const pods = kind<Pod>("v1", "Pod", "pods");
export const services = kind<Service>("v1", "Service", "services");
export const secrets = kind<Secret>("v1", "Secret", "secrets");
export const configMaps = kind<Wire<V1ConfigMap>>("v1", "ConfigMap", "configmaps");
export const events = kind<Wire<CoreV1Event>>("v1", "Event", "events");
export const nodes = kind<Wire<V1Node>>("v1", "Node", "nodes", false);
export const namespaces = kind<Wire<V1Namespace>>("v1", "Namespace", "namespaces", false);
export const endpointSlices = kind<Wire<V1EndpointSlice>>("discovery.k8s.io/v1", "EndpointSlice", "endpointslices");
export const leases = kind<Lease>("coordination.k8s.io/v1", "Lease", "leases");
export const definitions = kind<Wire<V1CustomResourceDefinition>>(
  "apiextensions.k8s.io/v1",
  "CustomResourceDefinition",
  "customresourcedefinitions",
  false,
);

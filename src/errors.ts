/**
 * Every error that a person can meet: its code, what causes it, and what cures it.
 * Code branches on the code, never on the text. `http` is the status that the API answers with.
 */
export const errorTable = {
  BAD_REQUEST: {
    http: 400,
    cause: "The request is not of the documented form.",
    cure: "Compare with docs/cli.md; the API's form is at /openapi.json.",
  },
  NO_NAMESPACES: {
    http: 400,
    cause: "A host's containers have no namespaces, as pods of a cluster have.",
    cure: "Leave the namespace (--namespace) out.",
  },
  NOT_AUTHORISED: {
    http: 401,
    cause: "The caller is no paired site, and shows no token that is good here.",
    cure: "Pair the two sites with `ums pair`; as a person of a cluster, show a token of `kubectl create token ACCOUNT --audience=ums`.",
  },
  NOT_YOURS: { http: 403, cause: "The migration belongs to another site.", cure: "Ask the site that started it." },
  SERVICE_NOT_FOUND: { http: 404, cause: "No container has this name.", cure: "`ums list` shows the services of this site." },
  MIGRATION_NOT_FOUND: { http: 404, cause: "No migration has this id.", cure: "`ums status` shows the migrations of this site." },
  SITE_NOT_FOUND: {
    http: 404,
    cause: "No paired site has this name or address.",
    cure: "`ums sites` shows the paired sites; `ums pair` adds one.",
  },
  ALREADY_MIGRATING: { http: 409, cause: "The service is being migrated already.", cure: "Watch that migration, or cancel it." },
  TOO_LATE: {
    http: 409,
    cause: "The migration has passed its commit or has ended.",
    cure: "Migrate the service back instead, where this site takes it.",
  },
  NOT_STUCK: {
    http: 409,
    cause: "The destination of this migration answers, or the migration does not wait for it.",
    cure: "Let the migration end by itself.",
  },
  SITE_UNREACHABLE: {
    http: 502,
    cause: "The other site does not answer.",
    cure: "Check that `ums serve` runs there and that its port can be reached.",
  },
  PEER_FAILED: { http: 502, cause: "The other site failed to do its part.", cure: "See the log of `ums serve` on that site." },
  TIMED_OUT: { http: 504, cause: "A step took longer than its limit.", cure: "See the log; the migration has been undone." },
  CANCELLED: { http: 409, cause: "The migration was cancelled.", cure: "Start it again when wanted." },
  INTERRUPTED: { http: 500, cause: "The coordinator stopped in the middle of the migration.", cure: "It has been undone; start it again." },
  PAIRING_REFUSED: {
    http: 401,
    cause: "The pairing code is wrong, used, or expired.",
    cure: "Get a new code with `ums pair` on the other site.",
  },
  SITE_NAME_TAKEN: {
    http: 409,
    cause: "A site of this name, but with other keys, is paired already.",
    cure: "Give one of the sites another siteName, or remove the old one with `ums sites --remove`.",
  },
  PAIRED_WITH_ITSELF: { http: 409, cause: "The address leads back to this site.", cure: "Give the address of the other site." },
  SITE_BUSY: { http: 409, cause: "A migration with this site has not ended.", cure: "Wait for it, or cancel it." },
  MIGRATION_OPEN: {
    http: 409,
    cause: "UMS can't be changed while a migration from here, or an arrival, is on its way.",
    cure: "Wait until it has ended, or end it by `ums cancel ID` on the site that it started from. Where `ums serve` does not run here, start it first.",
  },
  CLIENTS_LED: {
    http: 409,
    cause: "Clients reach services that have gone from here by what UMS keeps in this host's kernel.",
    cure: "End that with `ums release ID`, once they know the new address.",
  },
  SHIM_NEEDED: {
    http: 409,
    cause: "A container that came by migration can be started by UMS's OCI runtime alone.",
    cure: "Move them away with `ums migrate`, or remove them with `podman rm` and make them anew.",
  },
  SERVE_NOT_RUNNING: {
    http: 502,
    cause: "Nothing answers on the socket of this site.",
    cure: "Start `ums serve`, or give its socket with --socket.",
  },
  SERVE_RUNNING: { http: 409, cause: "Another `ums serve` has the socket or the port.", cure: "Stop it, or configure another one." },
  SOCKET_FORBIDDEN: {
    http: 403,
    cause: "This user may not use the socket of `ums serve`.",
    cure: "Be root, or a member of the configured socketGroup.",
  },
  BAD_CONFIGURATION: { http: 500, cause: "The configuration can't be used.", cure: "Correct it; docs/configuration.md has every field." },
  BAD_STATE: {
    http: 500,
    cause: "A file in the state directory can't be used.",
    cure: "Bring it back from a backup, or remove it and pair the sites again.",
  },
  COPY_IS_GONE: {
    http: 409,
    cause: "The destination has no copy for this migration, and will never have one.",
    cure: "The migration is undone; start it again.",
  },
  SHIM_SILENT: {
    http: 502,
    cause: "The container engine started the destination's container without UMS's OCI runtime.",
    cure: "`ums doctor` at the destination says what is missing.",
  },
  CONTAINER_REMADE: {
    http: 502,
    cause: "The destination's container engine was started again, or lost its patience, while a container waited for its memory.",
    cure: "It has been undone; start it again.",
  },
  RESTORE_FAILED: {
    http: 502,
    cause: "CRIU could not restore the service at the destination.",
    cure: "The migration is undone; `ums plan` may say more.",
  },
  UNHEALTHY: {
    http: 502,
    cause: "The restored copy failed the service's own health check.",
    cure: "The migration is undone; see the service's log.",
  },
  DUMP_FAILED: { http: 502, cause: "CRIU could not dump the service.", cure: "It is undone; `ums plan` may say more." },
  CRIU_REMAINS: {
    http: 502,
    cause: "CRIU, or what it works on, does not end.",
    cure: "UMS tries again; look at the named processes, and kill them where they hang.",
  },
  VOLUME_EXISTS: { http: 409, cause: "The destination has a volume of this name.", cure: "Rename or remove it there." },
  TWIN_DIFFERS: {
    http: 409,
    cause: "The destination's container engine can't give the service the settings that it has.",
    cure: "Make the engines' versions and configuration equal, or change the named settings of the service.",
  },
  PODMAN_UNREACHABLE: { http: 502, cause: "Podman's API does not answer.", cure: "`ums doctor` says more." },
  PODMAN_FAILED: { http: 502, cause: "Podman could not do what was asked.", cure: "See the log of `ums serve` and of Podman." },
  API_SERVER_UNREACHABLE: {
    http: 502,
    cause: "The cluster's API server does not answer, or can't do its work just now.",
    cure: "Check the control plane; UMS tries again by itself where it may.",
  },
  CLUSTER_FORBIDS: {
    http: 500,
    cause: "The cluster does not let UMS do this.",
    cure: "Apply deploy/kubernetes/rbac.yml of this version.",
  },
  CLUSTER_REFUSED: {
    http: 409,
    cause: "The cluster refused an object: by its schema, a quota, or an admission policy.",
    cure: "The message says what it minds; change that in the cluster or in the object.",
  },
  OBJECT_EXISTS: { http: 409, cause: "The cluster has an object of this name.", cure: "Rename or remove it." },
  OBJECT_CHANGED: { http: 409, cause: "Somebody changed the object at the same time.", cure: "Do it again." },
  OBJECT_GONE: { http: 404, cause: "The cluster has no such object, or has it no more.", cure: "See `kubectl get events`." },
  NO_ROOM: {
    http: 507,
    cause: "There is no room for the memory image.",
    cure: "Free memory or disk, or name another directory in imageDirectories.",
  },
  FILES_UNREADABLE: { http: 500, cause: "The service's files could not be read.", cure: "The migration is undone; check the disk." },
  FILES_UNWRITABLE: {
    http: 507,
    cause: "The service's files could not be written at the destination.",
    cure: "The migration is undone; check the disk there.",
  },
  SERVICE_NOT_RUNNING: {
    http: 409,
    cause: "The container does not run.",
    cure: "Start it, or copy it while it is stopped with the container engine's own means.",
  },
  PODMAN_TOO_OLD: { http: 409, cause: "Podman is older than 4.3.", cure: "Install Podman 4.3 or newer." },
  PODMAN_ROOTLESS: { http: 409, cause: "Podman runs without root's rights.", cure: "Run `ums serve` as root, and leave podmanSocket out." },
  STORAGE_DRIVER: { http: 409, cause: "Podman's storage driver is not overlay.", cure: 'Set driver = "overlay" in storage.conf.' },
  RUNC_TOO_OLD: { http: 409, cause: "runc is missing or older than 1.1.", cure: "Install runc 1.1 or newer, or set runcPath." },
  CRIU_TOO_OLD: {
    http: 409,
    cause: "CRIU is missing or older than 4.2.1.",
    cure: "UMS's package brings it, and from a checkout `npm run setup`; or set criuPath to one that is new enough.",
  },
  CRIU_PROBE_FAILED: {
    http: 409,
    cause: "CRIU can't dump and restore a process with a TCP socket on this host.",
    cure: "Give `ums serve` root's rights without restrictions (no seccomp profile), and CRIU a kernel that it knows.",
  },
  UID: {
    http: 409,
    cause: "Without CAP_SYS_RESOURCE CRIU can't dump processes of another user than its own.",
    cure: "Give `ums serve` CAP_SYS_RESOURCE, or use UMS's own CRIU, which does without: leave criuPath out.",
  },
  SHIM_MISSING: {
    http: 409,
    cause: "UMS's OCI runtime is not installed, or Podman doesn't know it as `ums`.",
    cure: "Bring /etc/containers/containers.conf.d/ums.conf back (`apt install --reinstall -o Dpkg::Options::=--force-confmiss ./ums_….deb`; from a checkout as docs/hosts.md has it), leave podmanSocket out, and restart `ums serve`.",
  },
  HOOK_MISSING: {
    http: 409,
    cause: "The OCI hook that keeps a held container from starting is not active.",
    cure: "Install UMS's package again (`apt install --reinstall ./ums_….deb`; from a checkout as docs/hosts.md has it); hooks_dir in containers.conf, where it is set, must name the hook's directory.",
  },
  CGROUP_UNUSABLE: {
    http: 409,
    cause: "Containers can't be frozen by their cgroup.",
    cure: "Mount cgroup version 2, or version 1 with its freezer, writable at /sys/fs/cgroup.",
  },
  TOOL_MISSING: {
    http: 409,
    cause: "A program that UMS calls is missing.",
    cure: "Install what is missing, by `apt install` of the packages that are named.",
  },
  KERNEL_FEATURE: {
    http: 409,
    cause: "The kernel lacks something that UMS needs.",
    cure: "Load or build in nf_tables with NAT, fib and conntrack marks, and veth.",
  },
  RUN_NOT_VOLATILE: {
    http: 409,
    cause: "/run survives a reboot, so that a prepared restore would be taken for a live one.",
    cure: "Mount a tmpfs at /run.",
  },
  IMAGE_DIRECTORY: { http: 409, cause: "No directory for memory images can be written.", cure: "Correct imageDirectories." },
  STATE_DIRECTORY: {
    http: 409,
    cause: "The state directory can't be written, or does not survive a reboot.",
    cure: "Set stateDirectory to a directory on a disk.",
  },
  UNSUPPORTED_SETTING: {
    http: 409,
    cause: "The container has settings that UMS can't give to its copy.",
    cure: "Create the container without them.",
  },
  RUNTIME_NOT_RUNC: {
    http: 409,
    cause: "The container was started by another OCI runtime than runc or, on a host, crun.",
    cure: "Create it again with `podman --runtime crun` (or runc), or set runtime = \"crun\" in containers.conf; on a cluster's node let runc be containerd's default, and make the pod again.",
  },
  BIND_MOUNT: {
    http: 409,
    cause: "The container uses a directory of its host, which does not move with it.",
    cure: "Use a volume; or name the path with --bind-mount, where the destination has it, too, and takes it (accept.bindMounts).",
  },
  VOLUME_UNSUPPORTED: { http: 409, cause: "Only local volumes without options can be moved.", cure: "Copy the data into a plain volume." },
  VOLUME_SHARED: {
    http: 409,
    cause: "Another container uses the same volume.",
    cure: "Remove that container, or give it a volume of its own.",
  },
  LOG_DRIVER: {
    http: 409,
    cause: "The container writes to what whoever started it has opened (passthrough), or to a log of which UMS knows nothing.",
    cure: "Create the container with `--log-driver journald`, `k8s-file` or `none`.",
  },
  PODMAN_POD: {
    http: 409,
    cause: "The container shares namespaces with the others of its pod, and one of them can't go without them.",
    cure:
      "Create it outside the pod: `podman network create NAME`, then each container of the pod by `podman run --network NAME`, with the ports " +
      "that the pod publishes for it. They reach each other by their names there, and each can move.",
  },
  SYSTEMD_UNIT: {
    http: 409,
    cause: "A systemd unit made the container, and would start a fresh one when this one goes.",
    cure: "Make it again without the unit: see by which command it was made (`podman inspect --format '{{json .Config.CreateCommand}}' NAME`), stop the unit and take its file away (`systemctl disable --now UNIT`; of Quadlet, the .container file, then `systemctl daemon-reload`), and run that command without --rm, --replace, --cgroups, --sdnotify and --cidfile, and with --restart always.",
  },
  IO_URING: {
    http: 409,
    cause: "A process uses io_uring, which CRIU can't dump.",
    cure: "Turn it off in the program (UV_USE_IO_URING=0 for Node.js), or let a seccomp profile answer io_uring_setup with ENOSYS.",
  },
  ADDRESS_BOUND: {
    http: 409,
    cause: "A socket is bound to the container's own address, which is another one at the destination.",
    cure: "Let the program listen on any address (0.0.0.0) or on the loopback address; a query under way ends by itself.",
  },
  UNSUPPORTED_RESOURCE: {
    http: 409,
    cause: "A process of the container uses something that CRIU can't dump.",
    cure: "Turn it off in the program, or end that process.",
  },
  NAME_TAKEN: { http: 409, cause: "The destination has a container of this name.", cure: "Rename or remove it there." },
  POLICY: {
    http: 403,
    cause: "The destination doesn't take such a service from other sites.",
    cure: "Make the service without it, or have it accepted at the destination: `ums sites THIS-SITE --accept …` there, or `accept` of its configuration.",
  },
  PORT_TAKEN: {
    http: 409,
    cause: "A port that the service publishes is in use at the destination.",
    cure: "Stop what uses it there, or publish another port.",
  },
  ADDRESS_MISSING: {
    http: 409,
    cause: "The service publishes a port on an address that the destination doesn't have.",
    cure: "Publish the port on every address, or give the destination that address.",
  },
  NETWORK_MISSING: {
    http: 409,
    cause: "The destination lacks a network of the container.",
    cure: "Make it there with `podman network create`.",
  },
  BIND_MOUNT_MISSING: { http: 409, cause: "The destination lacks the source of a bind mount.", cure: "Create it there." },
  SECCOMP_PROFILE_MISSING: {
    http: 409,
    cause: "The destination lacks the container's seccomp profile.",
    cure: "Put the profile at the same path there.",
  },
  APPARMOR_PROFILE_MISSING: {
    http: 409,
    cause: "The destination's kernel has not loaded the AppArmor profile that the container was given.",
    cure: "Copy the profile's file to /etc/apparmor.d there, and load it: `apparmor_parser --replace FILE`.",
  },
  NO_MEMORY: {
    http: 507,
    cause: "The destination has too little free memory for the service.",
    cure: "Free memory there; or name a directory on disk first in its imageDirectories, so that the image takes none.",
  },
  NO_DISK: { http: 507, cause: "The disk has no room for the service's files and image.", cure: "Free room on it." },
  KERNEL_OLDER: {
    http: 409,
    cause: "The destination's kernel is older than the source's.",
    cure: "Use at least the same kernel version at the destination.",
  },
  CPU_FEATURES: {
    http: 409,
    cause: "The destination's CPU lacks instructions that the service may have chosen to use.",
    cure: "Use a CPU with at least the same features; or start the service where there are fewer, and move it from there.",
  },
  CGROUP_VERSION: {
    http: 409,
    cause: "The destination has another version of cgroups, and the memory image names the source's.",
    cure: "Use a destination with the same cgroup version (boot option systemd.unified_cgroup_hierarchy).",
  },
  CGROUP_PRIVATE: {
    http: 409,
    cause: "The host's cgroups are private mounts, and CRIU can't give a pod's processes theirs from them.",
    cure: "Run `mount --make-rshared /` there, as systemd does.",
  },
  CGROUP_LIMIT: {
    http: 409,
    cause: "The destination can't enforce a resource limit of the container.",
    cure: "Enable the cgroup controller there, or create the container without the limit.",
  },
  ULIMIT: {
    http: 409,
    cause: "The destination can't give the container a resource limit as high as it has.",
    cure: "Raise the hard limit of Podman's service there, or create the container with a lower --ulimit.",
  },
  HEALTHCHECK_TIMER: {
    http: 409,
    cause: "The container's health check needs a timer of systemd, which the destination doesn't run.",
    cure: "Create the container with `--health-interval disable`, or use a destination with systemd.",
  },
  THAWED: {
    http: 409,
    cause: "Somebody thawed the container while it was frozen for its migration.",
    cure: "The migration is undone; start it again.",
  },
  JOURNAL_CONTRADICTS: {
    http: 409,
    cause: "The Migration's status is about something else than the Migration itself: somebody but UMS has written it.",
    cure: "UMS does nothing by it. Find out who may write `migrations/status`, which nobody should, and delete the Migration; if its pod stands frozen, delete that, too.",
  },
  OTHER_POD: {
    http: 409,
    cause: "What runs on the node is not a part of the pod that was named.",
    cure: "If the pod was made anew meanwhile, start again. If not, somebody has written into a status: find out who may write `migrations/status` or `pods/status`.",
  },
  NOT_LEADING: { http: 409, cause: "The operator that asks leads no more.", cure: "None is needed: another one carries the migration on." },
  NOT_ALLOWED: {
    http: 403,
    cause: "The cluster's access rules don't allow it.",
    cure: "Ask for `create` on `migrations.ums.dev`, or `list` to look.",
  },
  POD_OWNED: {
    http: 409,
    cause: "A controller has the pod: it would make another when this one goes, or keeps this one from going.",
    cure: "Move a pod that nobody owns; whole Deployments and StatefulSets can't be moved yet.",
  },
  SERVICE_SHARED: {
    http: 409,
    cause: "A Service leads to other pods, too: its clients can't all follow the one that moves.",
    cure: "Give the pod a label that the Service does not select and a Service of its own, or move it within its cluster.",
  },
  POD_CHANGED: {
    http: 409,
    cause: "The pod's labels, annotations or spec were changed while it moved, and its copy does not have the change.",
    cure: "The migration is undone; start it again.",
  },
  POD_DELETED: { http: 409, cause: "The pod was deleted while it moved.", cure: "The migration is undone; the deletion stands." },
  POD_REFUSED: {
    http: 409,
    cause: "The destination's cluster doesn't take the pod.",
    cure: "Its own words say why: a quota, a policy, an image that can't be pulled, something that the pod names and that is not there.",
  },
  NO_NODE: {
    http: 409,
    cause: "The destination has no node for the pod.",
    cure: "Its scheduler's words say why; nodes that can take pods in have the label ums.dev/restores=true.",
  },
  NODE_UNCHANGEABLE: {
    http: 409,
    cause: "The node's containerd can't be given the runtime that restores pods.",
    cure: "The log of the node's ssu-interface says why. Take another node; this one can still give its pods away.",
  },
  RUNTIME_IN_USE: {
    http: 409,
    cause: "Pods that came by migration run on this node, and containerd needs UMS's runtime to stop them.",
    cure: "Move them elsewhere, or delete them, first: they are those with runtimeClassName ums.",
  },
  INTERFACE_MISSING: {
    http: 502,
    cause: "UMS's interface doesn't run on the pod's node, or on one that would lead its clients.",
    cure: "See the DaemonSet ssu-interface.",
  },
  HOST_PATH: { http: 409, cause: "The pod uses a directory of its node, which does not move with it.", cure: "Use an emptyDir." },
  HOST_NAMESPACE: {
    http: 409,
    cause: "The pod shares a namespace with its node.",
    cure: "Run it without hostNetwork, hostPID and hostIPC.",
  },
  SHARED_PROCESSES: {
    http: 409,
    cause: "The pod's containers see each other's processes, so none can be restored alone.",
    cure: "Run it without shareProcessNamespace.",
  },
  USER_NAMESPACE: { http: 409, cause: "The pod's user namespace can't be made again.", cure: "Run it without hostUsers: false." },
  CLAIM: { http: 409, cause: "Volumes of claims don't move yet.", cure: "Use an emptyDir, or move the data by the storage's own means." },
  DEVICE: { http: 409, cause: "The pod uses a device of its node.", cure: "Run it without." },
  HUGEPAGES: { http: 409, cause: "Huge pages can't be moved.", cure: "Run the pod without them." },
  SNAPSHOT_NOT_FOUND: {
    http: 404,
    cause: "No node has a complete snapshot there of a pod of this namespace.",
    cure: "Give the snapshotPath of a Podmigration whose checkpoint is Completed, in its namespace.",
  },
  SNAPSHOT_EXISTS: {
    http: 409,
    cause: "Something lies at the snapshot's path on the pod's node, and nothing is overwritten.",
    cure: "Name another snapshotPath, or remove what lies there.",
  },
  SNAPSHOT_DIFFERS: {
    http: 409,
    cause: "The template is of another pod than the snapshot.",
    cure: "Leave the template out, or give it the containers and images of the pod that was checkpointed.",
  },
  LIVENESS: {
    http: 409,
    cause: "The pod's liveness probe gives up at its first failure, or would have before its memory had been dumped, and had gone over.",
    cure: "Raise the probe's failureThreshold or periodSeconds; what had begun is undone.",
  },
  SEVERAL_CONTAINERS: {
    http: 409,
    cause: "The pod runs several containers, and a host would know them as strangers to each other.",
    cure: "Move it to a cluster, or run one container alone.",
  },
  NAME_UNUSABLE: {
    http: 409,
    cause: "The destination can't call a service by this name.",
    cure: "Rename it: small letters, digits and dashes fit everywhere (`podman rename`).",
  },
  IMAGE_NOT_IN_REGISTRY: {
    http: 409,
    cause: "The destination must pull the service's image by its digest, and can't.",
    cure: "Push the image to a registry that both sites reach, and start the service from there.",
  },
  NOT_ON_A_HOST: {
    http: 409,
    cause: "The pod has something that a host with Podman can't give it.",
    cure: "Run it without, or move it to a cluster; docs/kubernetes.md has the table.",
  },
  NOT_IN_A_POD: {
    http: 409,
    cause: "The container has something that a Pod can't have.",
    cure: "Create it without, or move it to a host; docs/kubernetes.md has the table.",
  },
  TERMINAL: { http: 409, cause: "A terminal is attached from outside.", cure: "Run the container without tty." },
  INTERNAL: { http: 500, cause: "UMS met something it does not know.", cure: "See the log of `ums serve`, and report it." },
} as const satisfies Record<string, { http: number; cause: string; cure: string }>;

export type ErrorCode = keyof typeof errorTable;

/** An error meant for a person. `detail` says what was met here; cause and cure come from the table. */
export class UmsError extends Error {
  override readonly name = "UmsError";
  readonly code: ErrorCode;
  constructor(code: ErrorCode, detail: string, options?: ErrorOptions) {
    super(detail, options);
    this.code = code;
  }
  get cure(): string {
    return errorTable[this.code].cure;
  }
}

/** What another site calls a code, which may be of another version. */
export const codeFrom = (told: string | undefined): ErrorCode =>
  told !== undefined && Object.hasOwn(errorTable, told) ? (told as ErrorCode) : "INTERNAL";

/** The code in the error table under which a failure is shown. */
export function codeOf(error: Error): ErrorCode {
  if (error instanceof UmsError) return error.code;
  switch (error.name) {
    case "Interrupted":
      return "INTERRUPTED";
    case "TimeoutError":
      return "TIMED_OUT";
    case "AbortError":
      return "CANCELLED";
    case "TakenOver":
      return "INTERRUPTED";
    case "CopyIsGone":
      return "COPY_IS_GONE";
    case "DestinationIsGone":
      return "SITE_UNREACHABLE";
    default:
      return "INTERNAL";
  }
}

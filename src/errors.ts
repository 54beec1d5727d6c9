/**
 * Every error that a person can meet: its code, what causes it, and what cures it.
 * Code branches on the code, never on the text. `http` is the status that the API answers with.
 */
export const errorTable = {
  BAD_REQUEST: { http: 400, cause: "The request is not of the documented form.", cure: "See the OpenAPI document at /openapi.json." },
  NOT_AUTHORISED: { http: 401, cause: "The caller's certificate belongs to no paired site.", cure: "Pair the two sites with `ums pair`." },
  NOT_YOURS: { http: 403, cause: "The migration belongs to another site.", cure: "Ask the site that started it." },
  SERVICE_NOT_FOUND: { http: 404, cause: "No container has this name.", cure: "`ums list` shows the services of this site." },
  MIGRATION_NOT_FOUND: { http: 404, cause: "No migration has this id.", cure: "`ums status` shows the migrations of this site." },
  SITE_NOT_FOUND: { http: 404, cause: "No paired site has this name or address.", cure: "`ums sites` shows the paired sites; `ums pair` adds one." },
  ALREADY_MIGRATING: { http: 409, cause: "The service is being migrated already.", cure: "Watch that migration, or cancel it." },
  TOO_LATE: { http: 409, cause: "The migration has passed its commit or has ended.", cure: "Migrate the service back instead." },
  NOT_STUCK: { http: 409, cause: "The destination of this migration answers, or the migration does not wait for it.", cure: "Let the migration end by itself." },
  SITE_UNREACHABLE: { http: 502, cause: "The other site does not answer.", cure: "Check that `ums serve` runs there and that its port can be reached." },
  PEER_FAILED: { http: 502, cause: "The other site failed to do its part.", cure: "See the log of `ums serve` on that site." },
  TIMED_OUT: { http: 504, cause: "A step took longer than its limit.", cure: "See the log; the migration has been undone." },
  CANCELLED: { http: 409, cause: "The migration was cancelled.", cure: "Start it again when wanted." },
  INTERRUPTED: { http: 500, cause: "The coordinator stopped in the middle of the migration.", cure: "It has been undone; start it again." },
  PAIRING_REFUSED: { http: 401, cause: "The pairing code is wrong, used, or expired.", cure: "Get a new code with `ums pair` on the other site." },
  SITE_NAME_TAKEN: {
    http: 409,
    cause: "A site of this name, but with other keys, is paired already.",
    cure: "Give one of the sites another siteName, or remove the old one with `ums sites --remove`.",
  },
  PAIRED_WITH_ITSELF: { http: 409, cause: "The address leads back to this site.", cure: "Give the address of the other site." },
  SITE_BUSY: { http: 409, cause: "A migration with this site has not ended.", cure: "Wait for it, or cancel it." },
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
  COPY_IS_GONE: { http: 409, cause: "The destination has no copy for this migration, and will never have one.", cure: "The migration is undone; start it again." },
  SHIM_SILENT: {
    http: 502,
    cause: "The container engine started the destination's container without UMS's OCI runtime.",
    cure: "`ums doctor` at the destination says what is missing.",
  },
  RESTORE_FAILED: { http: 502, cause: "CRIU could not restore the service at the destination.", cure: "The migration is undone; `ums plan` may say more." },
  UNHEALTHY: { http: 502, cause: "The restored copy failed the service's own health check.", cure: "The migration is undone; see the service's log." },
  DUMP_FAILED: { http: 502, cause: "CRIU could not dump the service.", cure: "The migration is undone; `ums plan` may say more." },
  VOLUME_EXISTS: { http: 409, cause: "The destination has a volume of this name.", cure: "Rename or remove it there." },
  TWIN_DIFFERS: {
    http: 409,
    cause: "The destination's container engine can't give the service the settings that it has.",
    cure: "Make the engines' versions and configuration equal, or change the named settings of the service.",
  },
  PODMAN_UNREACHABLE: { http: 502, cause: "Podman's API does not answer.", cure: "`ums doctor` says more." },
  PODMAN_FAILED: { http: 502, cause: "Podman could not do what was asked.", cure: "See the log of `ums serve` and of Podman." },
  NO_ROOM: { http: 507, cause: "There is no room for the memory image.", cure: "Free memory or disk, or name another directory in imageDirectories." },
  FILES_UNREADABLE: { http: 500, cause: "The service's files could not be read.", cure: "The migration is undone; check the disk." },
  FILES_UNWRITABLE: { http: 507, cause: "The service's files could not be written at the destination.", cure: "The migration is undone; check the disk there." },
  SERVICE_NOT_RUNNING: { http: 409, cause: "The container does not run.", cure: "Start it, or copy it while it is stopped with the container engine's own means." },
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

/**
 * Registry credentials of projects. The password is sealed with the control plane's secret key,
 * bound to its project and registry, and leaves the database for one thing only: the op of that
 * project that needs it, on its way to a host (over mutual TLS, or a plain link that is loopback).
 */
import { LvError } from "../../proto/errors.ts";
import { normalReference, parseReference, parseRegistry } from "../../proto/image-reference.ts";
import type { Principal } from "../core/access.ts";
import type { Outgoing } from "../db/queries/ops.ts";
import { deleteRegistry, putRegistry, registriesOf } from "../db/queries/registries.ts";
import type { RegistryRow } from "../db/schema/registries.ts";
import type { Deps } from "./deps.ts";
import { seal, unseal } from "./seal.ts";

export type Login = { registry: string; username: string; password: string };

/** The key is read when the first secret needs it: a control plane without secrets has none. */
export class RegistrySecrets {
  readonly #load: () => Uint8Array;
  #key: Uint8Array | null = null;

  constructor(load: () => Uint8Array) {
    this.#load = load;
  }

  /** Throws BAD_REQUEST, CONFIG_INVALID. */
  async store(deps: Deps, { projectId }: Principal, login: Login): Promise<RegistryRow> {
    const registry = parseRegistry(login.registry);
    const { username, password } = login;
    if (username.includes(":"))
      throw new LvError("BAD_REQUEST", "A user name of a registry has no colon");
    const sealed = seal(this.#get(), purposeOf(projectId, registry), password);
    const keyId = this.#keyId();
    return await putRegistry(deps.database.db, { projectId, registry, username, sealed, keyId });
  }

  /**
   * What ops need for their registries, by op; nothing where the project has nothing for one.
   * A secret that cannot be opened is as good as none, and the log says so: the pull then
   * fails by itself.
   */
  async forOps(deps: Deps, outgoing: Outgoing[]): Promise<Map<string, Login>> {
    const wanted = outgoing.flatMap((entry) => wantedBy(entry) ?? []);
    const logins = new Map<string, Login>();
    if (wanted.length === 0) return logins;
    const projects = [...new Set(wanted.map(({ projectId }) => projectId))];
    const rows = await registriesOf(deps.database.db, projects);
    for (const { opId, projectId, registry } of wanted) {
      const row = rows.find((one) => one.projectId === projectId && one.registry === registry);
      const password = row === undefined ? null : this.#open(deps, row);
      if (row !== undefined && password !== null)
        logins.set(opId, { registry, username: row.username, password });
    }
    return logins;
  }

  #open(deps: Deps, row: RegistryRow): string | null {
    const { projectId, registry, keyId } = row;
    try {
      const password = unseal(this.#get(), purposeOf(projectId, registry), row.sealed);
      if (password !== null) return password;
      deps.log.error({ projectId, registry, keyId, ours: this.#keyId() }, "a login of another key");
    } catch (error) {
      deps.log.error({ err: error, projectId, registry }, "cannot open a registry login");
    }
    return null;
  }

  #get(): Uint8Array {
    this.#key ??= this.#load();
    return this.#key;
  }

  #keyId(): string {
    return new Bun.CryptoHasher("sha256").update(this.#get()).digest("hex").slice(0, 16);
  }
}

/** Throws NOT_FOUND. */
export async function forgetRegistry(
  deps: Deps,
  { projectId }: Principal,
  reference: string,
): Promise<RegistryRow> {
  const missing = new LvError("NOT_FOUND", `No login for registry "${reference.slice(0, 80)}"`);
  const registry = known(reference);
  if (registry === null) throw missing;
  const row = await deleteRegistry(deps.database.db, projectId, registry);
  if (row === undefined) throw missing;
  return row;
}

function known(text: string): string | null {
  try {
    return parseRegistry(text);
  } catch (error) {
    if (error instanceof LvError) return null;
    throw error;
  }
}

/** Which registry an op will ask, and for whom. */
function wantedBy({ op, machine }: Outgoing) {
  const { id: opId, command } = op;
  const wanted =
    command.kind === "pull_image"
      ? { projectId: command.projectId, image: command.image }
      : command.kind === "start" && machine !== null
        ? { projectId: machine.projectId, image: machine.config.image }
        : null;
  if (wanted === null || normalReference(wanted.image) === null) return null;
  return { opId, projectId: wanted.projectId, registry: parseReference(wanted.image).registry };
}

const purposeOf = (projectId: string, registry: string): string =>
  `registry login ${projectId} ${registry}`;

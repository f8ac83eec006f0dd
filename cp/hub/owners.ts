/** Which replica a host's stream ends at, for sessions that may be asked of any. */
import { findOwner } from "../db/queries/replicas.ts";
import type { Deps } from "../ops/deps.ts";
import type { Registry } from "./registry.ts";

export class Owners {
  readonly #deps: Deps;
  readonly #registry: Registry;
  readonly #replicaId: string;
  /** What replicas know each other by. */
  readonly secret: string;

  constructor(deps: Deps, registry: Registry, replica: { id: string; secret: string }) {
    this.#deps = deps;
    this.#registry = registry;
    this.#replicaId = replica.id;
    this.secret = replica.secret;
  }

  /** The URL of the other replica that has the stream; null = it is ours, or nobody's. */
  async elsewhere(hostId: string): Promise<string | null> {
    if (this.#registry.get(hostId) !== undefined) return null;
    const owner = await findOwner(this.#deps.database.db, hostId);
    return owner === null || owner.id === this.#replicaId ? null : owner.url;
  }
}

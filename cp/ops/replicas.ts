/**
 * Several control planes on one database. Each has a lease that it renews; a host
 * belongs to the replica that registered its stream, as long as that one's lease
 * lasts. What a replica may write for a host is guarded by the host's epoch, never
 * by the lease: a replica that stood still and goes on finds that its writes touch
 * nothing.
 *
 *   entered ──renew──► held ──stood still, or PostgreSQL away──► run out
 *                        ▲                                         │ enter again, and
 *                        └── close the streams others have taken ──┘ look at every host
 *
 * After an outage of the database every lease has run out. So nobody takes hosts
 * from others before his own lease has lasted for a whole period: those who are
 * alive have renewed by then.
 */
import { fenceHost } from "../db/queries/hosts.ts";
import {
  enterReplica,
  findOrphans,
  ownedHosts,
  renewReplica,
  takeLead,
} from "../db/queries/replicas.ts";
import type { Deps } from "./deps.ts";
import { hostLost } from "./host-down.ts";
import type { Origin } from "./report.ts";

const LEASE_S = 10;
export const RENEW_MS = 2_500;
const SWEEP = "sweep";
const BATCH = 500;

/** The hub, as far as leases need it. */
export type Streams = { origins(): Origin[]; close(origin: Origin): void };

export class Replica {
  readonly id: string;
  readonly #url: () => string;
  readonly #deps: Deps;
  readonly #streams: Streams;
  /** When the lease began to last without a gap; null = it has not begun. */
  #heldSince: number | null = null;

  /** `url` is asked when the lease begins: the listener's port is known only then. */
  constructor(deps: Deps, id: string, url: () => string, streams: Streams) {
    this.#deps = deps;
    this.id = id;
    this.#url = url;
    this.#streams = streams;
  }

  async enter(): Promise<void> {
    this.#heldSince = null;
    await enterReplica(this.#deps.database.db, { id: this.id, url: this.#url() }, LEASE_S);
    this.#heldSince = this.#deps.clock.now();
  }

  /** Every RENEW_MS. */
  async renew(): Promise<void> {
    if (await renewReplica(this.#deps.database.db, this.id, LEASE_S)) return;
    this.#deps.log.warn({ replicaId: this.id }, "the lease had run out");
    await this.enter();
    const mine = await ownedHosts(this.#deps.database.db, this.id);
    const epochs = new Map(mine.map(({ id, epoch }) => [id, epoch]));
    for (const origin of this.#streams.origins())
      if (epochs.get(origin.hostId) !== origin.epoch) this.#streams.close(origin);
  }

  /** Marks down the hosts of replicas that are gone. One replica does it for all. */
  async sweep(): Promise<void> {
    const { database, clock, log } = this.#deps;
    if (this.#heldSince === null || clock.now() - this.#heldSince < LEASE_S * 1_000) return;
    if ((await takeLead(database.db, SWEEP, this.id, LEASE_S)) === null) return;
    for (const origin of await findOrphans(database.db, BATCH)) {
      if (!(await fenceHost(database.db, origin.id, origin.epoch))) continue;
      log.warn({ hostId: origin.id }, "its replica is gone: the host is disconnected");
      await hostLost(this.#deps, origin.id);
    }
  }
}

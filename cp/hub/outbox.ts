/**
 * Sends ops down the streams of this process. Woken after a commit, and by a
 * poll, which is what correctness rests on: a wake-up may be lost. One pump for all
 * hosts: those that are woken while it waits for the database go together in its next
 * pass, so that the busier the hub is, the fewer statements an op costs.
 */
import { create } from "@bufbuild/protobuf";
import { RegistryLoginSchema } from "../../proto/gen/leveret/v1/agent_pb.js";
import { findOutgoing, hostsWithPending, markSent, type Outgoing } from "../db/queries/ops.ts";
import type { Deps } from "../ops/deps.ts";
import type { Registry } from "./registry.ts";
import type { Login, RegistrySecrets } from "../ops/registries.ts";
import { opToWire } from "./wire.ts";

/** Ops and hosts in one statement. */
const BATCH = 64;

export class Outbox {
  readonly #deps: Deps;
  readonly #registry: Registry;
  readonly #replicaId: string;
  readonly #secrets: RegistrySecrets;
  readonly #woken = new Set<string>();
  #running: Promise<void> | undefined;

  constructor(deps: Deps, registry: Registry, replicaId: string, secrets: RegistrySecrets) {
    this.#deps = deps;
    this.#secrets = secrets;
    this.#replicaId = replicaId;
    this.#registry = registry;
  }

  /** Returns at once. */
  wake(hostId: string): void {
    if (this.#registry.get(hostId)?.isOpen !== true) return;
    this.#woken.add(hostId);
    this.#running ??= this.#run();
  }

  async #run(): Promise<void> {
    while (this.#woken.size > 0) {
      const hosts = [...this.#woken].slice(0, BATCH);
      // Before the look: whoever is woken from here on is looked for again.
      for (const hostId of hosts) this.#woken.delete(hostId);
      try {
        await this.#pump(hosts);
      } catch (error) {
        // The poll tries again.
        this.#deps.log.error({ hosts: hosts.length, err: error }, "cannot send ops");
      }
    }
    this.#running = undefined;
  }

  /** One pass over the hosts that are connected here. */
  async poll(): Promise<void> {
    const hosts = await hostsWithPending(this.#deps.database.db, this.#replicaId);
    for (const hostId of hosts) this.wake(hostId);
  }

  /** Resolves when nothing is being sent. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #pump(hosts: string[]): Promise<void> {
    const { db, relaxed } = this.#deps.database;
    const outgoing = await findOutgoing(db, hosts, BATCH);
    const logins = await this.#secrets.forOps(this.#deps, outgoing);
    const sent = new Map<string, { ids: string[]; epoch: number; withLogin: boolean }>();
    for (const entry of outgoing) {
      const login = logins.get(entry.op.id);
      if (!this.#send(entry, login)) continue;
      const kind = { epoch: entry.epoch, withLogin: login !== undefined };
      const same = sent.get(JSON.stringify(kind)) ?? { ids: [], ...kind };
      sent.set(JSON.stringify(kind), same);
      same.ids.push(entry.op.id);
    }
    // After the send: a crash in between sends it twice, which the agent sorts out.
    for (const { ids, ...kind } of sent.values()) await markSent(relaxed, ids, kind);
    // What was not sent is not looked for at once: its stream is closed or closing.
    if (outgoing.length === BATCH && sent.size > 0) for (const id of hosts) this.#woken.add(id);
  }

  /** An op that no agent could read counts as sent: it must not come up again and again. */
  #send(entry: Outgoing, login: Login | undefined): boolean {
    const session = this.#registry.get(entry.op.hostId);
    if (session === undefined || !session.isOpen || session.origin.epoch !== entry.epoch)
      return false;
    const op = opToWire(entry);
    if (op !== null && login !== undefined) op.login = create(RegistryLoginSchema, login);
    return op === null || session.send({ case: "op", value: op });
  }
}

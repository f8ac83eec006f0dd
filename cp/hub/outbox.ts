/**
 * Sends ops down the streams of this process. Woken after a commit, and by a
 * poll, which is what correctness rests on: a wake-up may be lost. One pump per
 * host at a time; a wake-up during a pump makes it run once more.
 */
import { create } from "@bufbuild/protobuf";
import { RegistryLoginSchema } from "../../proto/gen/leveret/v1/agent_pb.js";
import { findOutgoing, hostsWithPending, markSent } from "../db/queries/ops.ts";
import type { Deps } from "../ops/deps.ts";
import type { Registry } from "./registry.ts";
import type { RegistrySecrets } from "../ops/registries.ts";
import { opToWire } from "./wire.ts";

const BATCH = 64;

export class Outbox {
  readonly #deps: Deps;
  readonly #registry: Registry;
  readonly #replicaId: string;
  readonly #secrets: RegistrySecrets;
  readonly #running = new Map<string, { again: boolean; done: Promise<void> }>();

  constructor(deps: Deps, registry: Registry, replicaId: string, secrets: RegistrySecrets) {
    this.#deps = deps;
    this.#secrets = secrets;
    this.#replicaId = replicaId;
    this.#registry = registry;
  }

  /** Returns at once. */
  wake(hostId: string): void {
    const running = this.#running.get(hostId);
    if (running !== undefined) {
      running.again = true;
      return;
    }
    if (this.#registry.get(hostId) === undefined) return;
    const state = { again: false, done: Promise.resolve() };
    this.#running.set(hostId, state);
    state.done = this.#run(hostId, state);
  }

  async #run(hostId: string, state: { again: boolean }): Promise<void> {
    try {
      do {
        state.again = false;
        await this.#pump(hostId);
      } while (state.again);
    } catch (error) {
      // The poll tries again.
      this.#deps.log.error({ hostId, err: error }, "cannot send ops");
    } finally {
      this.#running.delete(hostId);
    }
  }

  /** One pass over the hosts that are connected here. */
  async poll(): Promise<void> {
    const hosts = await hostsWithPending(this.#deps.database.db, this.#replicaId);
    for (const hostId of hosts) this.wake(hostId);
  }

  /** Resolves when nothing is being sent. */
  async idle(): Promise<void> {
    await Promise.all([...this.#running.values()].map((state) => state.done));
  }

  async #pump(hostId: string): Promise<void> {
    const { db } = this.#deps.database;
    for (;;) {
      const session = this.#registry.get(hostId);
      if (session === undefined || !session.isOpen) return;
      const { epoch } = session.origin;
      const outgoing = await findOutgoing(db, hostId, epoch, BATCH);
      for (const entry of outgoing) {
        const op = opToWire(entry);
        const login = await this.#secrets.forOp(this.#deps, entry);
        if (op !== null && login !== null) op.login = create(RegistryLoginSchema, login);
        if (op !== null && !session.send({ case: "op", value: op })) return;
        // After the send: a crash in between sends it twice, which the agent sorts out.
        await markSent(db, entry.op.id, epoch, login !== null);
      }
      if (outgoing.length < BATCH) return;
    }
  }
}

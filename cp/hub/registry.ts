/** The streams that are open in this process: at most one per host, the newest. */
import type { Origin } from "../ops/report.ts";
import type { HubSession } from "./session.ts";

export class Registry {
  readonly #sessions = new Map<string, HubSession>();

  /** Makes the session the host's; returns the one that it replaces. */
  set(session: HubSession): HubSession | undefined {
    const { hostId, epoch } = session.origin;
    const earlier = this.#sessions.get(hostId);
    // Two registrations may commit in one order and arrive here in the other.
    if (earlier !== undefined && earlier.origin.epoch > epoch) return session;
    this.#sessions.set(hostId, session);
    return earlier;
  }

  /** Forgets the session, unless a newer one has taken its place. */
  delete(session: HubSession): void {
    const { hostId } = session.origin;
    if (this.#sessions.get(hostId) === session) this.#sessions.delete(hostId);
  }

  get(hostId: string): HubSession | undefined {
    return this.#sessions.get(hostId);
  }

  holds({ hostId, epoch }: Origin): boolean {
    return this.#sessions.get(hostId)?.origin.epoch === epoch;
  }

  hostIds(): string[] {
    return [...this.#sessions.keys()];
  }

  all(): HubSession[] {
    return [...this.#sessions.values()];
  }
}

/**
 * Who may use how much of the disk: a build takes what it is going to need before it begins, so
 * that builds side by side do not each count on the same free bytes. What a build has used already
 * is missing from the free bytes and is let go of here.
 *
 *   fits beside the others → begins · fits alone → waits for them, in order · neither → DISK_FULL
 */
import { abortReason } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";

export type Need = { image: string; fetchBytes: number; writeBytes: number };

export type RoomOptions = {
  usable(): Promise<{ freeBytes: number; floorBytes: number }>;
  /** Removes what nobody needs, as much as it can of so many bytes. */
  free(bytes: number, image: string): Promise<unknown>;
};

/** Refused before anything was fetched. */
export class NoRoomError extends LvError {}

export class Reservation {
  readonly #bytes: number;
  readonly #onRelease: () => void;
  #used = 0;
  constructor(bytes: number, onRelease: () => void) {
    this.#bytes = bytes;
    this.#onRelease = onRelease;
  }

  /** Of its bytes so many are on the disk now. */
  use(bytes: number): void {
    this.#used = Math.max(this.#used, bytes);
  }

  get leftBytes(): number {
    return Math.max(this.#bytes - this.#used, 0);
  }

  /** Safe twice. */
  release(): void {
    this.#onRelease();
  }
}

export class Room {
  readonly #options: RoomOptions;
  readonly #held = new Set<Reservation>();
  #turn: Promise<unknown> = Promise.resolve();
  #released = Promise.withResolvers<void>();
  constructor(options: RoomOptions) {
    this.#options = options;
  }

  /** `onWait` is called when others have to end first. Throws NoRoomError, the signal's reason. */
  async take(need: Need, signal: AbortSignal, onWait: () => void): Promise<Reservation> {
    const taken = this.#turn.then(() => this.#take(need, signal, onWait));
    this.#turn = taken.catch(() => undefined);
    return await taken;
  }

  async #take(need: Need, signal: AbortSignal, onWait: () => void): Promise<Reservation> {
    const needed = need.fetchBytes + need.writeBytes;
    for (;;) {
      if (signal.aborted) throw abortReason(signal);
      const released = this.#released.promise;
      let { lacking } = await this.#look(needed);
      if (lacking > 0) {
        await this.#options.free(lacking, need.image);
        ({ lacking } = await this.#look(needed));
      }
      if (lacking <= 0) return this.#hold(needed);
      if (this.#held.size === 0) throw await this.#refusal(need);
      onWait();
      await until(released, signal);
    }
  }

  #hold(bytes: number): Reservation {
    const reservation = new Reservation(bytes, () => {
      if (!this.#held.delete(reservation)) return;
      this.#released.resolve();
      this.#released = Promise.withResolvers();
    });
    this.#held.add(reservation);
    return reservation;
  }

  async #look(needed: number): Promise<{ lacking: number }> {
    const { freeBytes, floorBytes } = await this.#options.usable();
    let promised = 0;
    for (const { leftBytes } of this.#held) promised += leftBytes;
    return { lacking: needed + promised + floorBytes - freeBytes };
  }

  async #refusal({ image, fetchBytes, writeBytes }: Need): Promise<NoRoomError> {
    const { freeBytes, floorBytes } = await this.#options.usable();
    const mib = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;
    return new NoRoomError(
      "DISK_FULL",
      `Image "${image}" needs about ${mib(fetchBytes + writeBytes)} on its host (${mib(fetchBytes)} to fetch, ${mib(writeBytes)} to write); ${mib(freeBytes)} are free, ${mib(floorBytes)} of them kept back`,
    );
  }
}

async function until(event: Promise<void>, signal: AbortSignal): Promise<void> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(abortReason(signal));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await Promise.race([event, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

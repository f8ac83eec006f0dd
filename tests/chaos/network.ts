/**
 * One network namespace per agent, joined to ours by a veth pair that can be cut. The
 * addresses are of 198.18.0.0/15, which is for tests of networks. Needs root and ip(8).
 */
import { spawnSync } from "node:child_process";

function ip(...args: string[]): void {
  const { status, stderr } = spawnSync("ip", args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`ip ${args.join(" ")}: ${stderr.trim()}`);
}

/** Null when namespaces can be made here; else why not. */
export function whyNoNamespaces(): string | null {
  const name = `lvt${process.pid}`;
  try {
    ip("netns", "add", name);
    ip("netns", "del", name);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

export class Namespace implements Disposable {
  readonly name: string;
  /** Ours, where the namespace reaches us. */
  readonly gateway: string;
  readonly #link: string;

  constructor(number: number) {
    this.name = `lvc${process.pid}-${number}`;
    this.#link = `lv${process.pid % 100_000}h${number}`;
    const peer = `lv${process.pid % 100_000}p${number}`;
    const net = `198.18.${100 + number}`;
    this.gateway = `${net}.1`;
    ip("netns", "add", this.name);
    ip("link", "add", this.#link, "type", "veth", "peer", "name", peer, "netns", this.name);
    ip("addr", "add", `${net}.1/24`, "dev", this.#link);
    ip("link", "set", this.#link, "up");
    ip("-n", this.name, "addr", "add", `${net}.2/24`, "dev", peer);
    ip("-n", this.name, "link", "set", peer, "up");
    ip("-n", this.name, "link", "set", "lo", "up");
  }

  /** For a command's argv. */
  get prefix(): string[] {
    return ["ip", "netns", "exec", this.name];
  }

  cut(): void {
    ip("link", "set", this.#link, "down");
  }

  heal(): void {
    ip("link", "set", this.#link, "up");
  }

  [Symbol.dispose](): void {
    spawnSync("ip", ["link", "del", this.#link]);
    spawnSync("ip", ["netns", "del", this.name]);
  }
}

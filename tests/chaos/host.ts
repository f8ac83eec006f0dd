/** An agent in a namespace of its own, with VMM processes that outlive it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { listProcesses } from "../../agent/runtime/proc.ts";
import { MachineId } from "../../proto/ids.ts";
import { Namespace } from "./network.ts";

const CHILD = join(import.meta.dir, "..", "kit", "agent-child.ts");

type Agent = Bun.Subprocess<"ignore", "ignore", "ignore">;

export class ChaosHost implements AsyncDisposable {
  readonly name: string;
  readonly dir = mkdtempSync(join(tmpdir(), "lev-chaos-"));
  readonly namespace: Namespace;
  readonly #grpcPorts: number[];
  readonly #joinToken: string;
  #agent: Agent | null = null;

  constructor(number: number, grpcPorts: number[], joinToken: string) {
    this.name = `host-${number}`;
    this.namespace = new Namespace(number);
    this.#grpcPorts = grpcPorts;
    this.#joinToken = joinToken;
  }

  start(): void {
    const addresses = this.#grpcPorts.map((port) => `${this.namespace.gateway}:${port}`);
    this.#agent = Bun.spawn(
      [...this.namespace.prefix, process.execPath, CHILD, addresses.join(","), this.dir],
      {
        stdio: ["ignore", "ignore", "ignore"],
        env: {
          PATH: process.env["PATH"] ?? "",
          LEVERET_INSECURE_LINK: "0",
          LEVERET_JOIN_TOKEN: this.#joinToken,
          LEVERET_HOST_NAME: this.name,
        },
      },
    );
  }

  get alive(): boolean {
    return this.#agent?.exitCode === null && this.#agent.signalCode === null;
  }

  freeze(): void {
    this.#agent?.kill("SIGSTOP");
  }

  thaw(): void {
    this.#agent?.kill("SIGCONT");
  }

  async kill(): Promise<void> {
    this.#agent?.kill("SIGKILL");
    await this.#agent?.exited;
  }

  /** The machine of each VMM process that is there. */
  running(): string[] {
    return this.#vmms().map(({ machineId }) => machineId);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    for (const { pid } of this.#vmms()) process.kill(pid, "SIGKILL");
    this.namespace[Symbol.dispose]();
    rmSync(this.dir, { recursive: true, force: true });
  }

  #vmms(): { pid: number; machineId: string }[] {
    const under = `${this.dir}/machines/`;
    return listProcesses().flatMap(({ pid, argv }) => {
      const last = argv.at(-1) ?? "";
      const machineId = last.startsWith(under)
        ? (last.slice(under.length).split("/")[0] ?? "")
        : "";
      return MachineId.is(machineId) ? [{ pid, machineId }] : [];
    });
  }
}

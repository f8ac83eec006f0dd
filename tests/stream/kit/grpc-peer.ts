/** Runs grpc-peer.mjs under Node and talks to it. */
import { join } from "node:path";
import { until } from "../../kit/until.ts";

type Frame = Record<string, unknown> & { frame?: string; epoch?: string };
export type Told = {
  enrolled?: boolean;
  code?: number;
  stream?: number;
  frame?: Frame;
  end?: boolean;
  error?: number;
};

export type PeerOptions = {
  /** Path of the .proto file. */
  proto: string;
  address: string;
  /** PEM; null = plain h2c. */
  tls: { ca: string; key: string } | null;
};

export class GrpcPeer implements AsyncDisposable {
  readonly told: Told[] = [];
  readonly #child;
  #errors = "";

  constructor(options: PeerOptions) {
    this.#child = Bun.spawn(
      ["node", join(import.meta.dir, "grpc-peer.mjs"), JSON.stringify(options)],
      { stdin: "pipe", stdout: "pipe", stderr: "pipe" },
    );
    void this.#read();
    void new Response(this.#child.stderr).text().then((text) => (this.#errors = text));
  }

  async #read(): Promise<void> {
    let text = "";
    const decoder = new TextDecoder();
    for await (const bytes of this.#child.stdout) {
      text += decoder.decode(bytes, { stream: true });
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) this.told.push(JSON.parse(line) as Told);
    }
  }

  async tell(order: object): Promise<void> {
    await this.#child.stdin.write(`${JSON.stringify(order)}\n`);
    await this.#child.stdin.flush();
  }

  /** The first thing that was told and is accepted. */
  hear(what: string, accepts: (told: Told) => boolean): Promise<Told> {
    return until(what, () => {
      if (this.#child.exitCode !== null) throw new Error(`the peer ended: ${this.#errors}`);
      return this.told.find(accepts);
    });
  }

  frame(stream: number, kind: string): Promise<Told> {
    return this.hear(
      `${kind} on stream ${stream}`,
      (told) => told.stream === stream && told.frame?.frame === kind,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null) await this.tell({ do: "end" }).catch(() => undefined);
    const forced = setTimeout(() => this.#child.kill("SIGKILL"), 3_000);
    await this.#child.exited;
    clearTimeout(forced);
  }
}

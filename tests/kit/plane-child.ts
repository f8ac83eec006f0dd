/** A control plane as a process of its own, on a database that others share. */
import { join } from "node:path";
import { TEST_TOKEN } from "./token.ts";
import { until } from "./until.ts";

const MAIN = join(import.meta.dir, "..", "..", "cp", "main.ts");

/** For `env`: SIGUSR2 collects garbage. */
export const GC_ON_SIGNAL = {
  BUN_OPTIONS: `--preload=${join(import.meta.dir, "gc-on-signal.ts")}`,
};

export class PlaneChild implements AsyncDisposable {
  readonly httpUrl: string;
  readonly grpcAddr: string;
  readonly #process: Bun.Subprocess<"ignore", "ignore", "pipe">;

  private constructor(
    process: Bun.Subprocess<"ignore", "ignore", "pipe">,
    ready: { httpUrl: string; grpcAddr: string },
  ) {
    this.#process = process;
    this.httpUrl = ready.httpUrl;
    this.grpcAddr = ready.grpcAddr;
  }

  /** `databaseUrl`: "" = a PostgreSQL of its own, in `dataDir`; end it with `end`. */
  static async start(
    databaseUrl: string,
    dataDir: string,
    env: Record<string, string> = {},
  ): Promise<PlaneChild> {
    const child = Bun.spawn([process.execPath, MAIN], {
      stdio: ["ignore", "ignore", "pipe"],
      env: {
        PATH: process.env["PATH"] ?? "",
        DATABASE_URL: databaseUrl,
        LEVERET_CP_DIR: dataDir,
        LEVERET_INSECURE_LINK: "1",
        LEVERET_BOOTSTRAP_TOKEN: TEST_TOKEN,
        HTTP_PORT: "0",
        GRPC_PORT: "0",
        ...env,
      },
    });
    let text = "";
    const decoder = new TextDecoder();
    void (async () => {
      for await (const bytes of child.stderr)
        if (text.length < 1 << 20) text += decoder.decode(bytes);
    })();
    try {
      const line = await until("the control plane", () => {
        if (child.exitCode !== null) throw new Error(`it ended: ${text}`);
        return text.split("\n").find((one) => one.includes('"control plane is ready"'));
      });
      return new PlaneChild(child, JSON.parse(line) as { httpUrl: string; grpcAddr: string });
    } catch (error) {
      child.kill("SIGKILL");
      throw error;
    }
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** SIGSTOP … SIGCONT. */
  freeze(): void {
    this.#process.kill("SIGSTOP");
  }

  thaw(): void {
    this.#process.kill("SIGCONT");
  }

  /** SIGTERM, which ends an embedded PostgreSQL too. */
  async end(): Promise<void> {
    this.#process.kill("SIGTERM");
    await this.#process.exited;
  }

  async kill(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.exited;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill();
  }
}

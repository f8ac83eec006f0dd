/**
 * `first_output_1gib`: from `lev run` to the first byte that the guest's process wrote, over
 * a link of 50 MB/s, with a cold image store: control plane, agent, VMM and a Linux guest on
 * this machine's /dev/kvm. Beside it the time until the image alone is whole on that link.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { Client } from "../../cli/client.ts";
import { runTool } from "../kit/images/run.ts";
import { PlaneChild } from "../kit/plane-child.ts";
import { TEST_TOKEN } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { DEV_KERNEL_ARGS } from "../vm/kit.ts";

const ROOT = join(import.meta.dir, "../..");
const KernelPrint = z.object({ kernelPath: z.string(), initrdPath: z.string() });
const TEXT = "first output";
const COMMAND = ["/bin/busybox", "echo", TEXT];

/** A host that has never pulled anything. Linux guests: LEVERET_DEV_KERNEL must be set. */
export class FirstOutput implements AsyncDisposable {
  readonly #dir: string;
  readonly #kernel: z.infer<typeof KernelPrint>;
  readonly #plane: PlaneChild;

  private constructor(dir: string, kernel: z.infer<typeof KernelPrint>, plane: PlaneChild) {
    this.#dir = dir;
    this.#kernel = kernel;
    this.#plane = plane;
  }

  static async start(dir: string, devKernel: string): Promise<FirstOutput> {
    const planeDir = join(dir, "cp");
    mkdirSync(planeDir, { recursive: true });
    await runTool([process.execPath, join(ROOT, "native/build.ts")]);
    const make = ["--kernel", devKernel, "--modules", "none", "--print"];
    const made = Bun.spawn([process.execPath, join(ROOT, "agent/kernel/main.ts"), ...make], {
      env: { ...process.env, LEVERET_CACHE_DIR: join(dir, "cache") },
      stdio: ["ignore", "pipe", "ignore"],
    });
    const kernel = KernelPrint.parse(JSON.parse(await new Response(made.stdout).text()));
    return new FirstOutput(dir, kernel, await PlaneChild.start("", planeDir));
  }

  /** Seconds; the agent of this round has an empty directory. */
  async run(reference: string, round: number): Promise<number> {
    await using _agent = await this.#startAgent(join(this.#dir, `agent-${round}`));
    const began = performance.now();
    const lev = Bun.spawn(
      [process.execPath, join(ROOT, "cli/main.ts"), "run", "--rm", reference, ...COMMAND],
      { env: this.#cliEnv(), stdio: ["ignore", "pipe", "pipe"] },
    );
    let seconds = Number.NaN;
    let said = "";
    for await (const bytes of lev.stdout) {
      if (said === "") seconds = (performance.now() - began) / 1000;
      said += new TextDecoder().decode(bytes);
    }
    const code = await lev.exited;
    if (code !== 0 || said.trim() !== TEXT)
      throw new Error(`lev run ended with ${code}: ${await new Response(lev.stderr).text()}`);
    return seconds;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#plane.end();
  }

  #cliEnv(): Record<string, string> {
    return {
      PATH: process.env["PATH"] ?? "",
      LEVERET_URL: this.#plane.httpUrl,
      LEVERET_TOKEN: TEST_TOKEN,
    };
  }

  async #startAgent(dir: string): Promise<AsyncDisposable> {
    const child = Bun.spawn([process.execPath, join(ROOT, "agent/main.ts")], {
      env: {
        PATH: process.env["PATH"] ?? "",
        CONTROL_PLANE_GRPC_ADDR: this.#plane.grpcAddr,
        LEVERET_INSECURE_LINK: "1",
        LEVERET_AGENT_DIR: dir,
        LEVERET_KERNEL: this.#kernel.kernelPath,
        LEVERET_INITRD: this.#kernel.initrdPath,
        LEVERET_KERNEL_ARGS: DEV_KERNEL_ARGS,
      },
      stdio: ["ignore", "ignore", "ignore"],
    });
    const client = new Client({ url: this.#plane.httpUrl, token: TEST_TOKEN });
    await until("the host", async () => {
      if (child.exitCode !== null) throw new Error("the agent ended");
      return (await client.hosts()).some(({ state }) => state === "ready");
    });
    return {
      [Symbol.asyncDispose]: async () => {
        child.kill("SIGTERM");
        await child.exited;
      },
    };
  }
}

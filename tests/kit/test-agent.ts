/** An agent in this process, with the fake driver, for tests of the link. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeDriver, type FakeDriverOptions } from "../../agent/runtime/fake-driver.ts";
import { type Agent, type AgentOverrides, startAgent } from "../../agent/server.ts";
import { silentLog } from "../../lib/log.ts";
import { FakeImages } from "./fake-images.ts";

export const FAKE_KERNELS = {
  resolve: () => Promise.resolve({ kernelPath: "/dev/null", initrdPath: null, kernelArgs: "" }),
};

export class TestAgent implements AsyncDisposable {
  readonly dir = mkdtempSync(join(tmpdir(), "lev-agent-"));
  readonly images = new FakeImages();
  readonly driver: FakeDriver;
  readonly #overrides: AgentOverrides;
  #agent: Agent | null = null;

  private constructor(addr: string, overrides: AgentOverrides, driver: Partial<FakeDriverOptions>) {
    this.driver = new FakeDriver({ dir: join(this.dir, "machines"), ...driver });
    this.#overrides = {
      driver: this.driver,
      images: this.images,
      kernels: FAKE_KERNELS,
      log: silentLog(),
      ...overrides,
      config: {
        controlPlaneAddr: addr,
        insecureLink: true,
        dir: this.dir,
        hostName: "test-host",
        capacity: { cpus: 8, memoryMib: 4_096, diskMib: 65_536 },
        ...overrides.config,
      },
    };
  }

  static async start(
    addr: string,
    overrides: AgentOverrides = {},
    driver: Partial<FakeDriverOptions> = {},
  ): Promise<TestAgent> {
    const made = new TestAgent(addr, overrides, driver);
    try {
      made.#agent = await startAgent(made.#overrides);
    } catch (error) {
      await made[Symbol.asyncDispose]();
      throw error;
    }
    return made;
  }

  get agent(): Agent {
    if (this.#agent === null) throw new Error("The agent is stopped");
    return this.#agent;
  }

  /** Machines go on, as they do without an agent. */
  async stop(): Promise<void> {
    await this.#agent?.[Symbol.asyncDispose]();
    this.#agent = null;
  }

  async restart(config: AgentOverrides["config"] = {}): Promise<void> {
    await this.stop();
    const merged = { ...this.#overrides.config, ...config };
    this.#agent = await startAgent({ ...this.#overrides, config: merged });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

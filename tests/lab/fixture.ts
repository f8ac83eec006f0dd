/**
 * One lab for a test file: a registry and a control plane outside, a host whose
 * agent dials in from the lab, and `./lev` run as a user runs it. Everything real.
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client } from "../../cli/client.ts";
import { startAgentInLab } from "../../cli/lab/agent.ts";
import { captureInLab } from "../../cli/lab/exec.ts";
import { LAB_DEFAULTS, startLab, stopLab } from "../../cli/lab/lab.ts";
import type { LabState } from "../../cli/lab/state.ts";
import { CHECKOUT } from "../../cli/paths.ts";
import { freePort, startControlPlane, type ControlPlane } from "../../cli/setup/services.ts";
import { startRegistry, type Registry } from "../kit/registry.ts";
import { until } from "../kit/until.ts";

export type LevResult = { code: number; stdout: string; stderr: string; ms: number };

const START_TIMEOUT_MS = 240_000;
const READY_TIMEOUT_MS = 180_000;

export class LabFixture implements AsyncDisposable {
  readonly registry: Registry;
  readonly lab: LabState;
  readonly client: Client;
  agentPid = 0;
  #plane: ControlPlane;
  readonly #runDir: string;
  readonly #ports: { http: number; grpc: number };
  readonly #stack: AsyncDisposableStack;

  private constructor(parts: {
    registry: Registry;
    lab: LabState;
    plane: ControlPlane;
    runDir: string;
    ports: { http: number; grpc: number };
    stack: AsyncDisposableStack;
  }) {
    this.registry = parts.registry;
    this.lab = parts.lab;
    this.#plane = parts.plane;
    this.#runDir = parts.runDir;
    this.#ports = parts.ports;
    this.#stack = parts.stack;
    this.client = new Client({ url: parts.plane.url, token: parts.plane.token });
  }

  static async start(): Promise<LabFixture> {
    await using stack = new AsyncDisposableStack();
    const runDir = mkdtempSync(join(tmpdir(), "lev-lab-test-"));
    chmodSync(runDir, 0o755);
    stack.defer(() => rmSync(runDir, { recursive: true, force: true }));
    const signal = AbortSignal.timeout(START_TIMEOUT_MS);
    const registry = stack.use(await startRegistry());
    const ports = { http: await freePort(), grpc: await freePort() };
    const plane = await startControlPlane(runDir, ports, signal);
    const name = `test-${process.pid}`;
    // The fixture's field, because a test may have put another in its place.
    const fixture: { current: LabFixture | null } = { current: null };
    stack.defer(() => (fixture.current?.plane ?? plane)[Symbol.asyncDispose]());
    const lab = await startLab({ ...LAB_DEFAULTS, cpus: 1, name });
    stack.defer(async () => void (await stopLab(name)));
    const parts = { registry, lab, plane, runDir, ports, stack: new AsyncDisposableStack() };
    const made = new LabFixture(parts);
    fixture.current = made;
    await made.startAgent();
    parts.stack.use(stack.move());
    return made;
  }

  get plane(): ControlPlane {
    return this.#plane;
  }

  /** Returns when the control plane has the host ready. */
  async startAgent(): Promise<void> {
    const { token } = await this.client.joinToken();
    const options = { controlPlane: this.#plane.grpcAddress, joinToken: token };
    this.agentPid = await startAgentInLab(this.lab, options);
    await this.untilReady();
  }

  async untilReady(): Promise<void> {
    await until(
      "the lab's host is ready",
      async () => (await this.client.hosts()).some((host) => host.state === "ready"),
      READY_TIMEOUT_MS,
    );
  }

  killControlPlane(): void {
    process.kill(this.#plane.process.pid, "SIGKILL");
  }

  /** Over the same directory and on the same ports. */
  async restartControlPlane(): Promise<void> {
    const signal = AbortSignal.timeout(START_TIMEOUT_MS);
    this.#plane = await startControlPlane(this.#runDir, this.#ports, signal);
  }

  /** A shell command in the lab; throws when it fails. */
  async inLab(script: string): Promise<string> {
    const result = await captureInLab(this.lab, ["sh", "-c", script]);
    if (result.code !== 0)
      throw new Error(`in the lab: ${script}: ${result.code}: ${result.stderr}`);
    return result.stdout;
  }

  lev(...argv: string[]): Promise<LevResult> {
    return this.startLev(...argv).done;
  }

  /** For what is looked at while it runs. */
  startLev(...argv: string[]): {
    done: Promise<LevResult>;
    output: () => string;
    kill: (signal: NodeJS.Signals) => void;
  } {
    const began = performance.now();
    const child = Bun.spawn([join(CHECKOUT, "lev"), ...argv], {
      cwd: tmpdir(),
      env: {
        ...process.env,
        LEVERET_URL: this.#plane.url,
        LEVERET_TOKEN: this.#plane.token,
      },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    let seen = "";
    const collect = async (): Promise<string> => {
      const decoder = new TextDecoder();
      for await (const chunk of child.stdout) seen += decoder.decode(chunk, { stream: true });
      return seen;
    };
    const done = Promise.all([child.exited, collect(), new Response(child.stderr).text()]).then(
      ([code, stdout, stderr]) => ({ code, stdout, stderr, ms: performance.now() - began }),
    );
    return { done, output: () => seen, kill: (signal) => child.kill(signal) };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}

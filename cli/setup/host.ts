/** The host of a quickstart: an agent on this machine, or one in a lab. */
import { readdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { systemClock } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import type { Host } from "../../proto/rest.ts";
import { VMM_FILES } from "../../proto/vmm.ts";
import type { Client } from "../client.ts";
import { LAB_AGENT_LOG, startAgentInLab } from "../lab/agent.ts";
import { captureInLab } from "../lab/exec.ts";
import { LAB_DEFAULTS, startLab, stopLab } from "../lab/lab.ts";
import type { LabState } from "../lab/state.ts";
import { BUN, cacheDir, CHECKOUT } from "../paths.ts";
import { duration } from "../render.ts";
import type { KvmKind } from "./kvm.ts";
import { stopProcess, tail, type ProcessName } from "./process.ts";
import { startService } from "./services.ts";

export type StartedHost = AsyncDisposable & {
  host: Host;
  note: string;
  /** A line for the list of commands to try, or "". */
  hint: string;
};

const READY_TIMEOUT_MS = 90_000;
const POLL_MS = 100;
const JOIN_TOKEN_S = 600;

export type HostOptions = {
  runDir: string;
  labName: string;
  grpcAddress: string;
  client: Client;
  signal: AbortSignal;
  /** Told of every process before it is waited for. */
  onProcess: (process: ProcessName) => void;
};

export async function startHost(kind: KvmKind, options: HostOptions): Promise<StartedHost> {
  return kind === "lab" ? startLabHost(options) : startDirectHost(options);
}

async function startLabHost(options: HostOptions): Promise<StartedHost> {
  const { labName: name, grpcAddress, client, signal } = options;
  await using stack = new AsyncDisposableStack();
  const lab = await startLab({ ...LAB_DEFAULTS, name, signal });
  stack.defer(async () => void (await stopLab(name)));
  const began = systemClock.now();
  const { token } = await client.joinToken(JOIN_TOKEN_S, signal);
  await startAgentInLab(lab, { controlPlane: grpcAddress, joinToken: token });
  const host = await untilReady(client, signal, () => labAgentLog(lab));
  const agentTime = duration(systemClock.now() - began);
  const kept = stack.move();
  return {
    host,
    note: `${host.hostname}: lab up in ${duration(lab.bootMs)}, agent in ${agentTime}`,
    hint: `  ./lev lab exec --name ${name} sh -c 'grep -c svm /proc/cpuinfo; tail -3 ${LAB_AGENT_LOG}'\n`,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

async function startDirectHost(options: HostOptions): Promise<StartedHost> {
  const { runDir, grpcAddress, client, signal } = options;
  if (process.getuid?.() !== 0)
    throw new LvError(
      "PERMISSION_DENIED",
      "The agent runs machines as root: run quickstart as root, or with LEVERET_KVM=lab",
    );
  const agentDir = join(runDir, "agent");
  await using stack = new AsyncDisposableStack();
  stack.defer(() => endLeftoverVmms(agentDir));
  const { token } = await client.joinToken(JOIN_TOKEN_S, signal);
  const argv = [BUN, "--no-env-file", join(CHECKOUT, "agent", "main.ts")];
  const agent = stack.use(
    startService(runDir, "agent", argv, {
      CONTROL_PLANE_GRPC_ADDR: grpcAddress,
      LEVERET_INSECURE_LINK: "0",
      LEVERET_JOIN_TOKEN: token,
      LEVERET_KVM_KIND: "direct",
      LEVERET_AGENT_DIR: agentDir,
      LEVERET_CACHE_DIR: cacheDir(),
      HOME: homedir(),
    }),
  );
  options.onProcess(agent.process);
  const host = await untilReady(client, signal, async () =>
    Promise.resolve(readFileSync(agent.logPath, "utf8")),
  );
  const kept = stack.move();
  return {
    host,
    note: host.hostname,
    hint: "",
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

async function labAgentLog(lab: LabState): Promise<string> {
  return (await captureInLab(lab, ["tail", "-n", "12", LAB_AGENT_LOG])).stdout;
}

/** The agent has dialled and said Hello. */
async function untilReady(
  client: Client,
  signal: AbortSignal,
  log: () => Promise<string>,
): Promise<Host> {
  const deadline = systemClock.now() + READY_TIMEOUT_MS;
  for (;;) {
    const host = (await client.hosts(signal)).find((candidate) => candidate.state === "ready");
    if (host !== undefined) return host;
    if (systemClock.now() > deadline)
      throw new LvError(
        "TIMEOUT",
        `The agent did not reach the control plane within ${READY_TIMEOUT_MS / 1000} s${tail(await log(), 12)}`,
      );
    await systemClock.sleep(POLL_MS, signal);
  }
}

const VmmName = z.object({ pid: z.int(), pidStartTime: z.int() });

/** VMMs whose machines could not be removed in order; found by their own status files. */
export async function endLeftoverVmms(agentDir: string): Promise<void> {
  let machines: string[];
  try {
    machines = readdirSync(join(agentDir, "machines"));
  } catch {
    return; // no machine was ever made
  }
  for (const machine of machines) {
    const name = readVmmName(join(agentDir, "machines", machine, VMM_FILES.status));
    if (name !== null) await stopProcess({ pid: name.pid, startTime: name.pidStartTime }, 0);
  }
}

function readVmmName(path: string): z.infer<typeof VmmName> | null {
  try {
    return VmmName.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    return null; // none was started, or it ended before its first status
  }
}

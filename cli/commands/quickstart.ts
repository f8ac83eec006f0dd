/**
 * `lev quickstart`: from a fresh checkout to a running microVM, with every part
 * real. Numbered steps on standard error; the machine's output and the summary on
 * standard output.
 *
 * What it starts is on one stack and is stopped in the reverse order, whatever
 * ends it: machines, agent or lab, control plane, registry, directories. Caches
 * (packages, kernels, the lab's kernel) stay.
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { abortReason } from "../../lib/clock.ts";
import { shutdownSignal } from "../../lib/signals.ts";
import { LvError } from "../../proto/errors.ts";
import type { Host, Machine } from "../../proto/rest.ts";
import { Client } from "../client.ts";
import { forgetToken, rememberToken } from "../credentials.ts";
import { exactly, parse, type Command } from "../command.ts";
import { err, out } from "../output.ts";
import { Steps } from "../progress.ts";
import { duration } from "../render.ts";
import { startHost, type StartedHost } from "../setup/host.ts";
import { chooseKvm, kvmFacts } from "../setup/kvm.ts";
import { clearLeftovers, Ledger } from "../setup/leftovers.ts";
import type { ProcessName } from "../setup/process.ts";
import { setUp, SETUP_STEPS } from "../setup/prepare.ts";
import { pushSampleImage, type PushedImage } from "../setup/sample-image.ts";
import {
  freePort,
  startControlPlane,
  startRegistry,
  type ControlPlane,
} from "../setup/services.ts";
import { printLog } from "./logs.ts";

export const command: Command = {
  summary: "from nothing to a running microVM, in one command",
  help: `usage: lev quickstart [--once]

Installs what is missing, builds, and brings up a registry, a control plane and a
host, all on loopback; then runs an image as a microVM and shows its output.
Stays up until Ctrl-C, so that you can try more; --once ends after the machine.

The host is this machine when its CPU offers VMX or SVM and /dev/kvm opens, else
a lab (lev lab --help). LEVERET_KVM=direct or lab overrides.
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, { once: { type: "boolean" } });
    exactly(positionals, 0, "");
    const signal = shutdownSignal();
    // A terminal that is closed is an end in order too.
    process.on("SIGHUP", () => process.kill(process.pid, "SIGTERM"));
    try {
      return await quickstart(values.once === true, signal);
    } catch (error) {
      if (!signal.aborted) throw error;
      await err("lev: interrupted; everything is stopped\n");
      return 130;
    }
  },
};

const STEPS_AFTER_SETUP = 5;
const MACHINE_TIMEOUT_MS = 240_000;
const SCRIPT = `. /etc/os-release; echo "Hello from $PRETTY_NAME"; uname -srm; echo "$(nproc) CPU, pid $$, $(id)"`;

async function quickstart(once: boolean, signal: AbortSignal): Promise<number> {
  const kind = chooseKvm(process.env["LEVERET_KVM"] ?? "", kvmFacts());
  const steps = new Steps(SETUP_STEPS + STEPS_AFTER_SETUP);
  await setUp(steps, ["host", "quickstart"], signal);

  const cleared = await clearLeftovers();
  if (cleared > 0) await err(`lev: cleared what ${cleared} killed quickstart(s) had left\n`);

  await using stack = new AsyncDisposableStack();
  // Traversable: PostgreSQL runs under a user of its own below it.
  const runDir = mkdtempSync(join(tmpdir(), "leveret-"));
  chmodSync(runDir, 0o755);
  const labName = `quickstart-${process.pid}`;
  const ledger = stack.use(new Ledger(runDir, labName));
  stack.defer(() => rmSync(runDir, { recursive: true, force: true }));

  const registry = await steps.step("registry", async () => {
    const value = stack.use(await startRegistry(runDir, signal));
    ledger.add(value.process);
    return { value, note: value.host };
  });
  const image = await steps.step("sample image", async () => {
    const value = await pushSampleImage(runDir, registry.host, signal);
    return { value, note: value.digest };
  });
  const plane = await steps.step("control plane", async () => {
    const ports = {
      http: await freePort(once ? 0 : 8080),
      grpc: await freePort(once ? 0 : 8090),
    };
    const value = stack.use(await startControlPlane(runDir, ports, signal));
    ledger.add(value.process);
    return { value, note: value.url };
  });
  const client = new Client({ url: plane.url, token: plane.token });
  rememberToken(plane.url, plane.token);
  stack.defer(() => forgetToken(plane.url));
  const host = await steps.step(`host (KVM: ${kind})`, async () => {
    const onProcess = (named: ProcessName): void => ledger.add(named);
    const { grpcAddress } = plane;
    const options = { runDir, labName, grpcAddress, client, signal, onProcess };
    const value = stack.use(await startHost(kind, options));
    return { value, note: value.note };
  });
  stack.defer(() => removeMachines(client));
  const machine = await steps.step("machine", async () => {
    const value = await runMachine(client, image, signal);
    return { value, note: value.boot_us === null ? "ran" : `booted in ${bootTime(value)}` };
  });
  const code = await showMachine(client, machine, image, host.host, signal);
  await err(`\neverything took ${steps.total()}\n`);
  if (!once) await stayUp(plane, image, host, signal);
  return code;
}

/** Returns when the machine has ended. Throws its status reason when it failed. */
async function runMachine(
  client: Client,
  image: PushedImage,
  signal: AbortSignal,
): Promise<Machine> {
  const created = await client.createMachine(
    {
      config: { image: image.reference, init: { cmd: ["/bin/sh", "-c", SCRIPT] } },
      on_no_capacity: "fail",
    },
    signal,
  );
  const deadline = Date.now() + MACHINE_TIMEOUT_MS;
  while (Date.now() < deadline) {
    const machine = await client.wait(created.id, ["stopped", "failed", "destroyed"], 10, signal);
    if (machine?.state === "stopped") return machine;
    if (machine !== null)
      throw new LvError(
        "STATE_CONFLICT",
        `The machine ${machine.state}: ${machine.status_reason ?? ""}: ${machine.status_message ?? ""}`,
      );
  }
  throw new LvError("TIMEOUT", `The machine did not end within ${MACHINE_TIMEOUT_MS / 1000} s`);
}

async function showMachine(
  client: Client,
  machine: Machine,
  image: PushedImage,
  host: Host,
  signal: AbortSignal,
): Promise<number> {
  await out(
    `\nimage      ${image.reference}@${machine.image_digest ?? image.digest}\n` +
      `host       ${host.hostname} (${host.id})\n` +
      `KVM        ${host.kvm}\n` +
      `boot       ${bootTime(machine)} (VMM start to the first message of init)\n` +
      `output\n`,
  );
  for await (const line of client.logs(machine.id, false, signal)) await printLog(line);
  const code = machine.exit_code ?? 1;
  await out(`exit code  ${code}\n`);
  return code;
}

function bootTime(machine: Machine): string {
  return machine.boot_us === null ? "unknown" : duration(machine.boot_us / 1000);
}

async function stayUp(
  plane: ControlPlane,
  image: PushedImage,
  host: StartedHost,
  signal: AbortSignal,
): Promise<void> {
  const prefix = plane.url === "http://127.0.0.1:8080" ? "" : `LEVERET_URL=${plane.url} `;
  await out(`
The control plane's API is ${plane.url} (${plane.url}/openapi.json). Try:

  ${prefix}./lev run --rm ${image.reference} sh -c 'cat /etc/os-release; nproc; exit 7'
  ${prefix}./lev run --rm --cpus 2 --memory 512 ${image.reference} nproc
  ${prefix}./lev ps -a
  ${prefix}./lev hosts
${host.hint}
Ctrl-C stops and removes everything.
`);
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
  await err(`\nstopping (${abortReason(signal).message}) ...\n`);
}

/** VMMs outlive their agent by design, so the machines go first. */
async function removeMachines(client: Client): Promise<void> {
  try {
    const deadline = AbortSignal.timeout(60_000);
    const machines = await client.machines(deadline);
    await Promise.all(machines.map((machine) => client.remove(machine.id)));
    for (const machine of machines)
      while ((await client.wait(machine.id, ["destroyed"], 20, deadline)) === null);
  } catch (thrown) {
    // What is left is ended with the host below.
    await err(`lev: some machines were not removed in order: ${LvError.from(thrown).message}\n`);
  }
}

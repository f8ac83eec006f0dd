/**
 * `lev run`: create → (image progress) → output → exit code.
 *
 * Interrupts: the first Ctrl-C asks the machine to stop and goes on showing its
 * output; the second leaves it alone and detaches. What the machine printed is
 * shown in order and complete, whatever restarts meanwhile (client.logs).
 */
import { REASONS, LvError } from "../../proto/errors.ts";
import { RESTART_POLICIES, type CreateMachineRequest, type Machine } from "../../proto/rest.ts";
import { CPU_TEMPLATES } from "../../proto/vmm.ts";
import { Client } from "../client.ts";
import { environment, integer, parseBefore, UsageError, type Command } from "../command.ts";
import { LIMITS } from "../../lib/limits.ts";
import { err, out } from "../output.ts";
import { ImageProgressView } from "../progress.ts";
import { printLog } from "./logs.ts";

/** As docker: 125 = the machine could not be run, 127 = the command is not in the image. */
export const EXIT_FAILED = 125;
const EXIT_NOT_EXECUTABLE = 127;
const EXIT_DETACHED = 130;

const OPTIONS = {
  rm: { type: "boolean" },
  detach: { type: "boolean", short: "d" },
  env: { type: "string", short: "e", multiple: true },
  cpus: { type: "string" },
  memory: { type: "string", short: "m" },
  disk: { type: "string" },
  name: { type: "string" },
  "cpu-template": { type: "string" },
  hugepages: { type: "boolean" },
  kernel: { type: "string" },
  initrd: { type: "string" },
  "kernel-args": { type: "string" },
  entrypoint: { type: "string" },
  user: { type: "string", short: "u" },
  workdir: { type: "string", short: "w" },
  "stop-timeout": { type: "string" },
  restart: { type: "string" },
  label: { type: "string", multiple: true },
  "wait-capacity": { type: "boolean" },
} as const;

export const command: Command = {
  summary: "run an image as a machine, with its output and its exit code",
  help: `usage: lev run [options] IMAGE [COMMAND ARG…]

  --rm                remove the machine when its process has ended
  -d, --detach        print the machine's id once it runs, and return
  -e, --env K=V       environment; K alone takes the value it has here
  --cpus N            virtual CPUs, 1 to ${LIMITS.cpusMax} (default 1)
  -m, --memory MIB    memory (default 256)
  --disk MIB          writable disk under the root file system (default 1024)
  --name NAME         default: made up by the control plane
  --entrypoint PROG   replaces the image's ENTRYPOINT and drops its CMD
  -u, --user USER     user[:group] or uid[:gid] inside the image
  -w, --workdir DIR   working directory inside the image
  --cpu-template T    host or baseline: the same CPU on every host (default host)
  --hugepages         memory in pages of 2 MiB, which the host must have set aside
  --kernel FILE       guest kernel, a file on the host
  --initrd FILE       initramfs to go with it
  --kernel-args ARGS  appended to the kernel's command line
  --stop-timeout S    seconds from stop to kill (default 10)
  --restart POLICY    no, on-failure[:MAX] or always (default no)
  --label K=V         only on a host that has this label; may be given again
  --wait-capacity     wait for room instead of failing when no host has any

IMAGE is an OCI reference by tag or digest. Ends with the process's exit code;
${EXIT_FAILED} when the machine could not be run, ${EXIT_NOT_EXECUTABLE} when COMMAND is not in the image.
The first Ctrl-C stops the machine, the second detaches from it.
`,
  failureCode: EXIT_FAILED,
  run: async (argv) => {
    const { request, rm, detach } = parseRun(argv);
    const client = Client.fromEnvironment();
    return detach ? runDetached(client, request) : runAttached(client, request, rm);
  },
};

/** Pure: the command line as a request. Throws UsageError. */
export function parseRun(argv: string[], env: NodeJS.ProcessEnv = process.env) {
  const { values, rest } = parseBefore(argv, OPTIONS);
  const [image, ...cmd] = rest;
  if (image === undefined) throw new UsageError("IMAGE is missing");
  if (values.rm === true && values.detach === true)
    throw new UsageError("--rm needs somebody who waits for the end: leave out -d");
  const guest = {
    ...number("cpus", values.cpus, 1, LIMITS.cpusMax),
    ...number("memory_mb", values.memory, LIMITS.memoryMinMib, LIMITS.memoryMaxMib, "--memory"),
    ...number("disk_mb", values.disk, LIMITS.diskMinMib, LIMITS.diskMaxMib, "--disk"),
    ...cpuTemplate(values["cpu-template"]),
    ...(values.hugepages === true ? { hugepages: true } : {}),
    ...text("kernel", values.kernel),
    ...text("initrd", values.initrd),
    ...text("kernel_args", values["kernel-args"]),
  };
  const init = {
    ...(values.entrypoint === undefined ? {} : { entrypoint: [values.entrypoint] }),
    ...(cmd.length === 0 ? {} : { cmd }),
    ...text("working_dir", values.workdir),
    ...text("user", values.user),
  };
  const stop = number(
    "timeout",
    values["stop-timeout"],
    0,
    LIMITS.stopTimeoutMaxMs / 1000,
    "--stop-timeout",
  );
  const request: CreateMachineRequest = {
    ...text("name", values.name),
    config: {
      image,
      guest,
      env: environment(values.env ?? [], env),
      init,
      stop_config: stop,
      ...(values.restart === undefined ? {} : { restart: restartPolicy(values.restart) }),
      ...(values.label === undefined ? {} : { placement: { labels: hostLabels(values.label) } }),
    },
    on_no_capacity: values["wait-capacity"] === true ? "pending" : "fail",
  };
  return { request, rm: values.rm === true, detach: values.detach === true };
}

function cpuTemplate(name: string | undefined) {
  if (name === undefined) return {};
  const cpu_template = CPU_TEMPLATES.find((known) => known === name);
  if (cpu_template !== undefined) return { cpu_template };
  throw new UsageError(`--cpu-template "${name}" is none of ${CPU_TEMPLATES.join(", ")}`);
}

function restartPolicy(text: string) {
  const [name = "", retries, ...rest] = text.split(":");
  const policy = RESTART_POLICIES.find((known) => known === name);
  if (policy === undefined || rest.length > 0 || (retries !== undefined && policy !== "on-failure"))
    throw new UsageError(`--restart "${text}" is none of no, on-failure, on-failure:MAX, always`);
  return {
    policy,
    ...(retries === undefined ? {} : { max_retries: integer("--restart", retries, 0, 1_000_000) }),
  };
}

/** Throws UsageError. */
function hostLabels(words: string[]): Record<string, string> {
  return Object.fromEntries(
    words.map((word) => {
      const [key = "", ...value] = word.split("=");
      if (key === "" || value.length === 0)
        throw new UsageError(`--label "${word}" is not KEY=VALUE`);
      return [key, value.join("=")];
    }),
  );
}

function number<K extends string>(
  key: K,
  value: string | undefined,
  min: number,
  max: number,
  flag = `--${key}`,
): Partial<Record<K, number>> {
  const result: Partial<Record<K, number>> = {};
  if (value !== undefined) result[key] = integer(flag, value, min, max);
  return result;
}

function text<K extends string>(key: K, value: string | undefined): Partial<Record<K, string>> {
  const result: Partial<Record<K, string>> = {};
  if (value !== undefined) result[key] = value;
  return result;
}

async function runDetached(client: Client, request: CreateMachineRequest): Promise<number> {
  const created = await client.createMachine(request);
  const machine = await untilRunning(client, created);
  if (machine.state === "failed") return reportFailure(machine);
  await out(`${machine.id}\n`);
  return 0;
}

async function runAttached(
  client: Client,
  request: CreateMachineRequest,
  rm: boolean,
): Promise<number> {
  const created = await client.createMachine(request);
  using interrupts = new Interrupts(client, created);
  let code: number;
  try {
    code = await follow(client, created, interrupts.detached);
  } catch (error) {
    if (!interrupts.detached.aborted) throw error;
    await err(`\nlev: detached; ${created.name} (${created.id}) goes on\n`);
    return EXIT_DETACHED;
  }
  if (rm) await remove(client, created.id);
  return code;
}

async function follow(client: Client, created: Machine, signal: AbortSignal): Promise<number> {
  const started = await untilRunning(client, created, signal);
  if (started.started_at !== null || started.state !== "failed")
    for await (const line of client.logs(created.id, true, signal)) await printLog(line);
  return conclude(await untilEnded(client, created.id, signal));
}

/** Started or at its end already; shows how far the image is meanwhile. */
async function untilRunning(
  client: Client,
  created: Machine,
  signal?: AbortSignal,
): Promise<Machine> {
  const view = new ImageProgressView();
  try {
    for (let machine = created; ;) {
      await view.show(machine.config.image, machine.image_progress);
      if (["started", "stopping", "stopped", "failed", "destroyed"].includes(machine.state))
        return machine;
      const states = ["started", "stopped", "failed", "destroyed"];
      machine =
        (await client.wait(created.id, states, 1, signal)) ??
        (await client.machine(created.id, signal));
    }
  } finally {
    await view.end();
  }
}

async function untilEnded(client: Client, id: string, signal: AbortSignal): Promise<Machine> {
  for (;;) {
    const machine = await client.wait(id, ["stopped", "failed", "destroyed"], 60, signal);
    if (machine === null) continue;
    const another = machine.desired_state === "started" || machine.restart_at !== null;
    if (!another) return machine;
    // By its restart policy: this end is not the last one.
    await untilNextRun(client, id, signal);
  }
}

/** Returns when the next run has begun, or a little later. */
async function untilNextRun(client: Client, id: string, signal: AbortSignal): Promise<void> {
  try {
    await client.wait(id, ["starting", "started"], 5, signal);
  } catch (error) {
    // There is none any more: the state says what there is instead.
    if (!(error instanceof LvError) || error.reason !== "STATE_CONFLICT") throw error;
  }
}

async function conclude(machine: Machine): Promise<number> {
  if (machine.state === "failed" || machine.exit_code === null) return reportFailure(machine);
  return machine.exit_code;
}

/** One line that says why, as docker's "could not run" codes. */
async function reportFailure(machine: Machine): Promise<number> {
  const reason = machine.status_reason ?? machine.state.toUpperCase();
  const message = machine.status_message ?? `machine ${machine.name} ended without an exit code`;
  await err(`lev: ${reason}: ${message}\n`);
  return reason === "EXEC_FAILED" ? EXIT_NOT_EXECUTABLE : EXIT_FAILED;
}

async function remove(client: Client, id: string): Promise<void> {
  try {
    await client.remove(id);
    while ((await client.wait(id, ["destroyed"], 60)) === null);
  } catch (error) {
    // Gone is what was asked for, whoever did it.
    if (error instanceof LvError && REASONS[error.reason].http === 404) return;
    throw error;
  }
}

/** Ctrl-C and SIGTERM while a machine runs. */
class Interrupts implements Disposable {
  readonly #detach = new AbortController();
  readonly #onSignal: () => void;
  #asked = false;

  constructor(client: Client, machine: Machine) {
    this.#onSignal = () => {
      if (this.#asked) return this.#detach.abort(new DOMException("detached", "AbortError"));
      this.#asked = true;
      client.stop(machine.id).catch((error: unknown) => this.#detach.abort(error));
    };
    process.on("SIGINT", this.#onSignal);
    process.on("SIGTERM", this.#onSignal);
  }

  get detached(): AbortSignal {
    return this.#detach.signal;
  }

  [Symbol.dispose](): void {
    process.off("SIGINT", this.#onSignal);
    process.off("SIGTERM", this.#onSignal);
  }
}

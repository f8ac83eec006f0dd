import { readFileSync } from "node:fs";
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { integer, parse, parseBefore, UsageError, type Command } from "../command.ts";
import { LAB_AGENT_LOG, startAgentInLab } from "../lab/agent.ts";
import { execInLab } from "../lab/exec.ts";
import { findLab, LAB_DEFAULTS, startLab, stopLab } from "../lab/lab.ts";
import { LAB_FILES } from "../lab/qemu.ts";
import type { LabState } from "../lab/state.ts";
import { Client } from "../client.ts";
import { err, out } from "../output.ts";
import { Steps } from "../progress.ts";
import { duration, mib } from "../render.ts";

const HELP = `usage: lev lab up [--cpus N] [--memory MIB] [--disk MIB] [--agent HOST:PORT] [--name NAME]
       lev lab exec [-e K=V] [-w DIR] [--name NAME] COMMAND ARG…
       lev lab status | down | console [--name NAME]

A virtual bare-metal host in QEMU's software emulation, with AMD SVM: the real
kvm_amd runs inside, on any machine. It shares this machine's root file system
read-only; /tmp, /run and /run/leveret (a disk) are its own. It can dial the
loopback of this machine as 10.0.2.2, and nothing can dial into it.

  --agent HOST:PORT  start an agent in it that dials this control plane (its
                     gRPC listener as seen from here, for example 127.0.0.1:8090)
                     and joins with LEVERET_JOIN_TOKEN, or with a token that is
                     asked for at LEVERET_URL; LEVERET_INSECURE_LINK=1: plain link
  --name NAME        more than one lab may be up (default "${LAB_DEFAULTS.name}")
`;

export const command: Command = {
  summary: "a virtual bare-metal host on any Linux machine",
  help: HELP,
  run: async (argv) => {
    const [verb, ...rest] = argv;
    switch (verb) {
      case "up":
        return up(rest);
      case "exec":
        return exec(rest);
      case "down":
        return down(rest);
      case "status":
        return status(rest);
      case "console":
        return showConsole(rest);
      case undefined:
        throw new UsageError("up, exec, status, console or down is missing");
      default:
        throw new UsageError(`"${verb}" is none of up, exec, status, console, down`);
    }
  },
};

async function up(argv: string[]): Promise<number> {
  const { values } = parse(argv, {
    cpus: { type: "string" },
    memory: { type: "string" },
    disk: { type: "string" },
    agent: { type: "string" },
    name: { type: "string" },
  });
  const number = (flag: "cpus" | "memory" | "disk", fallback: number, max: number): number =>
    values[flag] === undefined ? fallback : integer(`--${flag}`, values[flag], 1, max);
  const options = {
    name: values.name ?? LAB_DEFAULTS.name,
    cpus: number("cpus", LAB_DEFAULTS.cpus, 64),
    memoryMib: number("memory", LAB_DEFAULTS.memoryMib, 1 << 20),
    diskMib: number("disk", LAB_DEFAULTS.diskMib, 1 << 24),
  };
  const steps = new Steps(values.agent === undefined ? 1 : 2);
  const lab = await steps.step("boot the lab", async () => {
    const value = await startLab(options);
    return { value, note: `up (kernel to first command ${duration(value.bootMs)})` };
  });
  const { agent } = values;
  if (agent !== undefined)
    await steps.step("start the agent in it", async () => {
      const joinToken = await joinTokenFor(process.env);
      const pid = await startAgentInLab(lab, { controlPlane: agent, joinToken });
      return { value: pid, note: `pid ${pid}, its log is ${LAB_AGENT_LOG} in the lab` };
    });
  return 0;
}

async function joinTokenFor(env: NodeJS.ProcessEnv): Promise<string | null> {
  if (env["LEVERET_INSECURE_LINK"] === "1") return null;
  const given = env["LEVERET_JOIN_TOKEN"] ?? "";
  return given === "" ? (await Client.fromEnvironment().joinToken()).token : given;
}

async function exec(argv: string[]): Promise<number> {
  const { values, rest } = parseBefore(argv, {
    env: { type: "string", short: "e", multiple: true },
    workdir: { type: "string", short: "w" },
    name: { type: "string" },
  });
  if (rest.length === 0) throw new UsageError("COMMAND is missing");
  const env = Object.fromEntries(
    (values.env ?? []).map((word) => {
      const [key = "", ...value] = word.split("=");
      return [key, value.join("=")];
    }),
  );
  let writing: Promise<void> = Promise.resolve();
  const code = await execInLab(requireLab(values.name), {
    argv: rest,
    env,
    ...(values.workdir === undefined ? {} : { cwd: values.workdir }),
    onOutput: (stream, data) => {
      const copy = Buffer.from(data);
      writing = writing.then(() => (stream === "stdout" ? out(copy) : err(copy)));
    },
  });
  await writing;
  return code;
}

async function down(argv: string[]): Promise<number> {
  const { values } = parse(argv, { name: { type: "string" } });
  const was = await stopLab(values.name ?? LAB_DEFAULTS.name);
  await err(was ? "lev: the lab is down\n" : "lev: no lab was up\n");
  return 0;
}

async function status(argv: string[]): Promise<number> {
  const { values } = parse(argv, { name: { type: "string" } });
  const lab = findLab(values.name ?? LAB_DEFAULTS.name);
  if (lab === null) {
    await out("down\n");
    return 1;
  }
  await out(
    `up: pid ${lab.pid}, ${lab.cpus} CPUs, ${mib(lab.memoryMib)}, booted in ${duration(lab.bootMs)}\n` +
      `console: ${join(lab.runDir, LAB_FILES.console)}\n`,
  );
  return 0;
}

async function showConsole(argv: string[]): Promise<number> {
  const { values } = parse(argv, { name: { type: "string" } });
  await out(readFileSync(join(requireLab(values.name).runDir, LAB_FILES.console)));
  return 0;
}

function requireLab(name: string | undefined): LabState {
  const lab = findLab(name ?? LAB_DEFAULTS.name);
  if (lab === null)
    throw new LvError("NOT_FOUND", "No lab is up: `lev lab up` starts one in a few seconds");
  return lab;
}

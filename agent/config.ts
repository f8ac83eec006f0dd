/**
 * The agent's environment, checked once at start. Every error names the variable
 * and the value. docs/architecture.md has the table.
 */
import { statfsSync } from "node:fs";
import { availableParallelism, homedir, hostname, totalmem } from "node:os";
import { isIPv4 } from "node:net";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { LvError } from "../proto/errors.ts";

export type Capacity = { cpus: number; memoryMib: number; diskMib: number };

export type AgentConfig = {
  /** host:port of the control plane's AgentLink; of each replica, with commas. */
  controlPlaneAddr: string;
  insecureLink: boolean;
  /** Brings a host its first certificate; null = none was given. */
  joinToken: string | null;
  dir: string;
  cacheDir: string;
  hostName: string;
  labels: Record<string, string>;
  capacity: Capacity;
  /** null = the newest package under cacheDir/kernels, looked up at each start. */
  kernelPath: string | null;
  initrdPath: string | null;
  kernelDirs: string[];
  /** Appended to every machine's kernel command line. */
  kernelArgs: string;
  kvmKind: "direct" | "lab";
  /** The path of passt, each machine's way out; null = machines have no network. */
  passt: string | null;
  /** In its place: the bridge that machines get interfaces on; null = none. */
  bridge: string | null;
  /** What machines on the bridge are told to ask for names; null = what the host asks. */
  resolver: string | null;
  /** Machines in jails; off = as the agent's own user, for trials without root. */
  jail: boolean;
  /** First of 65,536 user numbers for machines that nobody else uses. */
  uidBase: number;
  /** VMM processes started ahead of their machines; only with jails. */
  poolSize: number;
  /** cgroup v2's io.max for each machine on the disk it is on: "rbps=1048576"; "" = none. */
  ioMax: string;
  /** As written; the image pipeline parses them. */
  registryMirrors: string;
  registryInsecure: string;
  /** docker's config.json with mode 0600; null = registries are asked without credentials. */
  registryAuthFile: string | null;
  logLevel: string;
};

export type Environment = Record<string, string | undefined>;

const MIB = 2 ** 20;
/** A socket's path has 107 bytes: "/machines/<machine id>/vsock.sock_1024" needs 50. */
const DIR_MAX_BYTES = 57;
const POOL_SIZE = 1;
const POOL_SIZE_MAX = 64;
/** Above what systemd, subuid ranges and directory services hand out. */
const UID_BASE = 1_900_000_000;
const UID_BASE_MAX = 2 ** 32 - 2 - 65_536;
const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"];

function invalid(name: string, value: string, wanted: string): LvError {
  return new LvError("CONFIG_INVALID", `${name}="${value.slice(0, 200)}": expected ${wanted}`);
}

function text(env: Environment, name: string, fallback: string): string {
  const value = env[name];
  return value === undefined || value === "" ? fallback : value;
}

function absolute(env: Environment, name: string): string | null {
  const value = text(env, name, "");
  if (value === "") return null;
  if (!isAbsolute(value)) throw invalid(name, value, "an absolute path");
  return resolve(value);
}

function integer(env: Environment, name: string, fallback: () => number): number {
  const value = text(env, name, "");
  if (value === "") return Math.max(1, Math.floor(fallback()));
  const number = Number(value);
  if (!Number.isSafeInteger(number) || number < 1) throw invalid(name, value, "a positive integer");
  return number;
}

/** Machines may be promised more than there is: CPUs four times, since they are rarely all busy. */
function overcommitted(env: Environment, name: string, fallback: number, real: number): number {
  const value = text(env, name, String(fallback));
  const ratio = Number(value);
  if (!/^\d+(\.\d+)?$/.test(value) || ratio < 0.1 || ratio > 64)
    throw invalid(name, value, "a ratio from 0.1 to 64");
  return Math.max(1, Math.floor(real * ratio));
}

/** Memory that is kept for the host itself. */
function reserveMib(env: Environment): number {
  return integer(env, "LEVERET_RESERVE_MEMORY_MIB", () => 512);
}

function address(env: Environment): string {
  const name = "CONTROL_PLANE_GRPC_ADDR";
  const value = text(env, name, "127.0.0.1:8090");
  for (const one of value.split(",")) {
    const port = /^(?:\[[0-9a-fA-F:.]+\]|[^\s:/[\]]+):(\d{1,5})$/.exec(one)?.[1];
    if (port === undefined || Number(port) < 1 || Number(port) > 65_535)
      throw invalid(name, value, "host:port");
  }
  return value;
}

function labels(env: Environment): Record<string, string> {
  const name = "LEVERET_HOST_LABELS";
  const value = text(env, name, "");
  const found: Record<string, string> = {};
  for (const pair of value === "" ? [] : value.split(",")) {
    const at = pair.indexOf("=");
    if (at < 1) throw invalid(name, value, "key=value,key=value");
    found[pair.slice(0, at).trim()] = pair.slice(at + 1).trim();
  }
  return found;
}

function flag(env: Environment, name: string): boolean {
  const value = text(env, name, "0");
  if (value !== "0" && value !== "1") throw invalid(name, value, "0 or 1");
  return value === "1";
}

function freeDiskMib(dir: string): number {
  for (let at = dir; ; at = dirname(at)) {
    try {
      const fs = statfsSync(at);
      return (fs.bavail * fs.bsize) / MIB;
    } catch (error) {
      // Not there yet: the nearest parent that is there has the same disk.
      if (at === dirname(at)) throw error;
    }
  }
}

type Network = Pick<AgentConfig, "passt" | "bridge" | "resolver">;

function network(env: Environment): Network {
  const name = "LEVERET_NET";
  const program = Bun.which("passt");
  const value = text(env, name, program === null ? "none" : "passt");
  const bridge = text(env, "LEVERET_BRIDGE", "");
  const resolver = text(env, "LEVERET_RESOLVER", "");
  if (resolver !== "" && !isIPv4(resolver))
    throw invalid("LEVERET_RESOLVER", resolver, "an IPv4 address");
  switch (value) {
    case "none":
      return { passt: null, bridge: null, resolver: null };
    case "passt":
      if (program === null)
        throw new LvError("CONFIG_INVALID", "LEVERET_NET=passt: apt-get install passt");
      return { passt: program, bridge: null, resolver: null };
    case "tap":
      if (!/^[\w.-]{1,15}$/.test(bridge))
        throw invalid("LEVERET_BRIDGE", bridge, "the name of a bridge, as LEVERET_NET=tap");
      if (text(env, "LEVERET_JAIL", "on") !== "on")
        throw new LvError("CONFIG_INVALID", "LEVERET_NET=tap: only with LEVERET_JAIL=on");
      return { passt: null, bridge, resolver: resolver === "" ? null : resolver };
    default:
      throw invalid(name, value, '"passt", "tap" or "none"');
  }
}

function ioMax(env: Environment): string {
  const name = "LEVERET_IO_MAX";
  const value = text(env, name, "");
  if (value === "") return "";
  const pairs = value.split(",");
  const keys = pairs.map((pair) => /^([rw](?:bps|iops))=[1-9]\d{0,14}$/.exec(pair)?.[1]);
  if (keys.includes(undefined) || new Set(keys).size < keys.length)
    throw invalid(name, value, "rbps=N,wbps=N,riops=N,wiops=N, or some of them");
  return pairs.join(" ");
}

/** Throws CONFIG_INVALID. */
export function loadAgentConfig(env: Environment): AgentConfig {
  const dir = absolute(env, "LEVERET_AGENT_DIR") ?? "/var/lib/leveret/agent";
  if (Buffer.byteLength(dir) > DIR_MAX_BYTES)
    throw invalid("LEVERET_AGENT_DIR", dir, `at most ${DIR_MAX_BYTES} bytes (unix(7), sun_path)`);
  const cacheDir = absolute(env, "LEVERET_CACHE_DIR") ?? join(homedir(), ".cache", "leveret");
  const kernelDirs = text(env, "LEVERET_KERNEL_DIRS", join(cacheDir, "kernels")).split(":");
  for (const kernelDir of kernelDirs)
    if (!isAbsolute(kernelDir))
      throw invalid("LEVERET_KERNEL_DIRS", kernelDirs.join(":"), "absolute paths with ':' between");
  const kvmKind = text(env, "LEVERET_KVM_KIND", "direct");
  if (kvmKind !== "direct" && kvmKind !== "lab")
    throw invalid("LEVERET_KVM_KIND", kvmKind, '"direct" or "lab"');
  const jail = text(env, "LEVERET_JAIL", "on");
  if (jail !== "on" && jail !== "off") throw invalid("LEVERET_JAIL", jail, '"on" or "off"');
  const poolSize = Number(text(env, "LEVERET_POOL_SIZE", `${POOL_SIZE}`));
  if (!Number.isSafeInteger(poolSize) || poolSize < 0 || poolSize > POOL_SIZE_MAX)
    throw invalid("LEVERET_POOL_SIZE", `${poolSize}`, `a number from 0 to ${POOL_SIZE_MAX}`);
  const uidBase = integer(env, "LEVERET_UID_BASE", () => UID_BASE);
  if (uidBase > UID_BASE_MAX)
    throw invalid("LEVERET_UID_BASE", `${uidBase}`, `at most ${UID_BASE_MAX}`);
  const logLevel = text(env, "LEVERET_LOG_LEVEL", "info");
  if (!LOG_LEVELS.includes(logLevel))
    throw invalid("LEVERET_LOG_LEVEL", logLevel, LOG_LEVELS.join(", "));
  return {
    controlPlaneAddr: address(env),
    insecureLink: flag(env, "LEVERET_INSECURE_LINK"),
    joinToken: text(env, "LEVERET_JOIN_TOKEN", "") || null,
    dir,
    cacheDir,
    hostName: text(env, "LEVERET_HOST_NAME", hostname()),
    labels: labels(env),
    capacity: {
      cpus: overcommitted(
        env,
        "LEVERET_CPU_OVERCOMMIT",
        4,
        integer(env, "LEVERET_CPUS", availableParallelism),
      ),
      memoryMib: overcommitted(
        env,
        "LEVERET_MEMORY_OVERCOMMIT",
        1,
        integer(env, "LEVERET_MEMORY_MIB", () => totalmem() / MIB - reserveMib(env)),
      ),
      diskMib: integer(env, "LEVERET_DISK_MIB", () => freeDiskMib(dir) - 1024),
    },
    kernelPath: absolute(env, "LEVERET_KERNEL"),
    initrdPath: absolute(env, "LEVERET_INITRD"),
    kernelDirs,
    kernelArgs: text(env, "LEVERET_KERNEL_ARGS", ""),
    kvmKind,
    ...network(env),
    jail: jail === "on",
    uidBase,
    poolSize,
    ioMax: ioMax(env),
    registryMirrors: text(env, "LEVERET_REGISTRY_MIRRORS", ""),
    registryInsecure: text(env, "LEVERET_REGISTRY_INSECURE", ""),
    registryAuthFile: absolute(env, "LEVERET_REGISTRY_AUTH_FILE"),
    logLevel,
  };
}

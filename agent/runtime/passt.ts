/**
 * A machine's way out: passt, a user-mode network stack, one process per machine and
 * nothing to set up on the host. It translates the guest's connections into sockets
 * of its own, as the machine's user, so the host's routes and filters apply to them.
 *
 *   started ──VMM connects──> serving ──VMM gone──> it ends by itself (--one-off)
 *      └── the start fails: `kill`
 *
 * It belongs to the VMM, not to us: it outlives this agent as the machine does. What
 * an agent that crashed left between the two is found by its arguments.
 */
import { createHash } from "node:crypto";
import { existsSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import type { Clock } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import { VMM_FILES, type VmmNetwork } from "../../proto/vmm.ts";
import { isAlive, listProcesses, type ProcessName, signalProcess, startTimeOf } from "./proc.ts";

/** Every machine's own; nobody but its passt ever sees them. */
const ADDRESS = "10.0.2.15";
const PREFIX = 24;
const GATEWAY = "10.0.2.2";
const RESOLVER = "10.0.2.3";
/** Of an interface without offloads: large frames are what makes it fast. */
const MTU = 65_520;

const SWITCHES =
  "--foreground --quiet --one-off --ipv4-only --no-map-gw " +
  "--no-dhcp --no-ndp --no-dhcpv6 --no-ra --no-icmp";

const READY_TIMEOUT_MS = 10_000;
const POLL_MS = 2;

export type Network = { device: VmmNetwork; resolvConf: string };

/**
 * What is run: IPv4 without DHCP (init has the addresses), no inbound ports, and no
 * way to the host's loopback: the gateway's address is not mapped to it.
 */
export function passtArguments(machineId: string, uid: number): string[] {
  const fixed = `${SWITCHES} --mtu ${MTU} --address ${ADDRESS} --netmask ${PREFIX}`;
  const places = `--gateway ${GATEWAY} --dns-forward ${RESOLVER} --runas ${uid}:${uid}`;
  // Nobody is told of a search list without DHCP: it says in `ps` whose passt this is.
  const whose = ["--search", machineId, "--socket", VMM_FILES.passt];
  return [...fixed.split(" "), ...places.split(" "), ...whose];
}

/** Locally administered, the same at every start. */
export function macOf(machineId: string): string {
  const digest = createHash("sha256").update(machineId).digest("hex");
  return ["02", ...(digest.match(/../g) ?? []).slice(0, 5)].join(":");
}

/** Resolves when its socket is there. Throws VMM_FAULT. */
export async function startPasst(
  program: string,
  machineId: string,
  dir: string,
  uid: number,
  clock: Clock,
): Promise<Network> {
  const socket = join(dir, VMM_FILES.passt);
  killPasst(machineId);
  rmSync(socket, { force: true });
  const child = Bun.spawn({
    cmd: [program, ...passtArguments(machineId, uid)],
    // It gives up root first, and cannot walk here then: its socket is a name in its directory.
    cwd: dir,
    env: {},
    detached: true,
    // Not a pipe of ours, whose end would be its own.
    stdio: ["ignore", "ignore", "ignore"],
  });
  const deadline = clock.now() + READY_TIMEOUT_MS;
  while (!existsSync(socket)) {
    if (child.exitCode !== null || clock.now() > deadline) {
      child.kill("SIGKILL");
      throw new LvError(
        "VMM_FAULT",
        `The machine's network cannot be started: passt ended with ${child.exitCode ?? "a time-out"}`,
        { meta: { command: [program, ...passtArguments(machineId, uid)].join(" ") } },
      );
    }
    await clock.sleep(POLL_MS);
  }
  child.unref();
  return {
    device: {
      kind: "passt",
      name: socket,
      mac: macOf(machineId),
      mtu: MTU,
      address: `${ADDRESS}/${PREFIX}`,
      gateway: GATEWAY,
    },
    resolvConf: `nameserver ${RESOLVER}\n`,
  };
}

/** Ends what serves, or waits to serve, the machine. Safe twice. */
export function killPasst(machineId: string): void {
  for (const name of passtsOf(machineId)) signalProcess(name, "SIGKILL");
}

/** Exported for tests. */
export function passtsOf(machineId: string): ProcessName[] {
  return listProcesses()
    .filter(({ argv }) => basename(argv[0] ?? "").startsWith("passt") && argv.includes(machineId))
    .map(({ pid }) => ({ pid, startTime: startTimeOf(pid) ?? 0 }))
    .filter((name) => isAlive(name));
}

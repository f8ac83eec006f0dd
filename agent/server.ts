/**
 * Puts an agent together and runs it until it is disposed of. Disposing leaves the
 * machines running: it stops taking ops, drops the stream, ends image builds and
 * closes the journal, in that order.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../package.json" with { type: "json" };
import { type Clock, systemClock } from "../lib/clock.ts";
import { SHMEM_HUGE_PAGES } from "../lib/shmem-huge-pages.ts";
import { createLog, type Log } from "../lib/log.ts";
import { MachineState } from "../proto/gen/leveret/v1/agent_pb.js";
import type { HostId } from "../proto/ids.ts";
import { type AgentConfig, loadAgentConfig } from "./config.ts";
import type { AgentContext } from "./context.ts";
import { ImageStore, type ImageStoreOptions } from "./images/builder.ts";
import { readAuthFile } from "./images/registry-auth.ts";
import { parseInsecure, parseMirrors } from "./images/registry-config.ts";
import type { Images } from "./images/types.ts";
import { Cgroups } from "./runtime/cgroup.ts";
import { diskDeviceOf } from "./runtime/disk-device.ts";
import { checkJail, Jail } from "./runtime/jail.ts";
import { findKernelPackage } from "./kernel/package.ts";
import { runLink } from "./link/client.ts";
import { Identity } from "./link/identity.ts";
import type { Driver } from "./runtime/driver.ts";
import { Fleet } from "./runtime/fleet.ts";
import { Journal } from "./runtime/journal.ts";
import { HostKernels, type Kernels } from "./runtime/kernels.ts";
import { KvmDriver } from "./runtime/kvm-driver.ts";
import { openBridge } from "./runtime/tap.ts";
import { lockDirectory } from "./runtime/lock.ts";
import { allowSharedHugePages } from "./runtime/shared-huge-pages.ts";

/** How often the disk of the images is looked at; a pull looks for itself. */
const IMAGE_COLLECT_INTERVAL_MS = 5 * 60_000;

export type AgentOverrides = {
  config?: Partial<AgentConfig>;
  clock?: Clock;
  log?: Log;
  driver?: Driver;
  images?: Images;
  kernels?: Kernels;
};

export type Agent = AsyncDisposable & {
  hostId: HostId;
  fleet: Fleet;
  /** Resolves when the agent was disposed of; rejects when the control plane refused the host. */
  finished: Promise<void>;
};

/** Throws CONFIG_INVALID; machines that run already are adopted before it returns. */
export async function startAgent(overrides: AgentOverrides = {}): Promise<Agent> {
  const config = { ...loadAgentConfig(process.env), ...overrides.config };
  const clock = overrides.clock ?? systemClock;
  const log = overrides.log ?? createLog("agent", config.logLevel);
  const machinesDir = join(config.dir, "machines");
  mkdirSync(machinesDir, { recursive: true, mode: 0o700 });
  // Undone in reverse order, when a later step fails as well.
  await using cleanup = new AsyncDisposableStack();
  cleanup.use(lockDirectory(config.dir));
  const journal = cleanup.use(new Journal(join(config.dir, "journal.sqlite")));
  const hostId = journal.hostId();
  const { joinToken, dir } = config;
  const identity = config.insecureLink
    ? null
    : await Identity.open({ dir, hostId, joinToken, clock, log });
  const roots = (): string[] =>
    journal
      .machines()
      .filter(({ status, forgotten }) => !forgotten && status.state !== MachineState.DESTROYED)
      .map(({ status }) => status.imageDigest)
      .filter((digest) => digest !== "");
  const images = overrides.images ?? ownImages(cleanup, config, { clock, log, roots });
  cleanup.defer(() => images.close());
  const driver = overrides.driver ?? makeDriver(config, machinesDir, clock, log);
  const kernels =
    overrides.kernels ?? new HostKernels(config, () => findKernelPackage(config.cacheDir));
  const { capacity } = config;
  const fleet = new Fleet({ journal, images, driver, kernels, clock, log, capacity });
  cleanup.defer(() => fleet.close());
  await fleet.recover();
  const { version } = packageJson;
  const instance = crypto.randomUUID();
  const context: AgentContext = { config, clock, log, hostId, fleet, version, instance, identity };
  const leaving = new AbortController();
  const finished = runLink(context, leaving.signal);
  // Whoever awaits `finished` hears of a refusal; without a handler it would end the process.
  finished.catch(() => undefined);
  cleanup.defer(async () => {
    log.info("leaving; machines go on");
    leaving.abort(new DOMException("The agent is leaving", "AbortError"));
    await finished.catch(() => undefined);
  });
  log.info({ hostId, dir: config.dir, addr: config.controlPlaneAddr }, "agent is up");
  const owned = cleanup.move();
  return { hostId, fleet, finished, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

function allowHugePages(log: Log): void {
  try {
    allowSharedHugePages();
  } catch (error) {
    log.warn({ err: error }, `guests have small pages: ${SHMEM_HUGE_PAGES} cannot be set`);
  }
}

function makeDriver(config: AgentConfig, dir: string, clock: Clock, log: Log): Driver {
  allowHugePages(log);
  const { passt } = config;
  const bridge = config.bridge === null ? null : openBridge(config.bridge, config.resolver);
  if (passt === null && bridge === null)
    log.info("machines have no network: LEVERET_NET=none, or no passt");
  if (!config.jail) {
    log.warn("LEVERET_JAIL=off: machines run as the agent's own user and see what it sees");
    return new KvmDriver({ dir, clock, log, passt });
  }
  checkJail();
  const { uidBase, poolSize } = config;
  const cgroups = Cgroups.open(
    log,
    config.ioMax === "" ? null : { device: diskDeviceOf(dir), max: config.ioMax },
  );
  const jail = new Jail({ dir, uidBase, cgroups, bridge: config.bridge });
  return new KvmDriver({ dir, clock, log, jail, passt, bridge, poolSize });
}

type ImageParts = Pick<ImageStoreOptions, "clock" | "log" | "roots">;

/** The host's own store, which looks after its disk for as long as the agent lives. */
function ownImages(cleanup: AsyncDisposableStack, config: AgentConfig, parts: ImageParts): Images {
  const store = new ImageStore({
    ...parts,
    dir: config.dir,
    config: {
      mirrors: parseMirrors(config.registryMirrors),
      insecure: parseInsecure(config.registryInsecure),
      ...(config.registryAuthFile === null
        ? {}
        : { credentials: readAuthFile(config.registryAuthFile) }),
    },
  });
  const timer = setInterval(() => store.collect(), IMAGE_COLLECT_INTERVAL_MS);
  timer.unref();
  cleanup.defer(() => clearInterval(timer));
  return store;
}

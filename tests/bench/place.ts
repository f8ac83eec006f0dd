/**
 * `bun run bench place`: machines placed by concurrent clients through the operation
 * that REST calls, on the embedded PostgreSQL with its safe settings. Each placement
 * is a whole create: machine, guarded reservation, placement, op and event in one
 * transaction. The database is asked at the end whether any host was oversubscribed.
 */
import { parseArgs } from "node:util";
import { sql } from "drizzle-orm";
import { type Database, openDatabase } from "../../cp/db/index.ts";
import { hosts } from "../../cp/db/schema/hosts.ts";
import { machines } from "../../cp/db/schema/machines.ts";
import { ops } from "../../cp/db/schema/ops.ts";
import { placements } from "../../cp/db/schema/placements.ts";
import { Changes } from "../../cp/ops/changes.ts";
import { createMachine } from "../../cp/ops/create-machine.ts";
import type { Deps } from "../../cp/ops/deps.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { DEFAULT_PROJECT, HostId } from "../../proto/ids.ts";
import { MachineConfig } from "../../proto/rest.ts";
import { createDatabase } from "../kit/postgres.ts";
import { type Figure, makeFigure } from "./report.ts";

export const PLACE_USAGE = "place [--hosts N] [--placements N] [--clients N]";

const GROWTH_PLACEMENTS = 2_000;
const WARM_UP = 400;
const HOST_BATCH = 500;
const CONFIG = MachineConfig.parse({
  image: "busybox",
  guest: { cpus: 1, memory_mb: 256, disk_mb: 64 },
});

type Say = (line: string) => void;

export async function benchPlace(args: string[], say: Say): Promise<Figure[]> {
  const { values } = parseArgs({
    args,
    options: {
      hosts: { type: "string", default: "1000" },
      placements: { type: "string", default: "20000" },
      clients: { type: "string", default: "8" },
    },
  });
  const clients = Number(values.clients);
  await using database = await openDatabase(await createDatabase(), { prepare: true });
  const deps: Deps = {
    database,
    clock: systemClock,
    log: silentLog(),
    changes: new Changes(),
    wake: () => undefined,
  };
  const wanted = Number(values.placements);
  // A quarter more room than is wanted, so that hosts fill up and refuse.
  await makeHosts(
    database,
    Number(values.hosts),
    Math.ceil((wanted * 1.25) / Number(values.hosts)),
  );
  await placeMany(deps, WARM_UP, clients);
  const seconds = await placeMany(deps, wanted - WARM_UP, clients);
  const rate = (wanted - WARM_UP) / seconds;
  say(
    `${wanted} placements on ${values.hosts} hosts by ${clients} clients in ${seconds.toFixed(1)} s`,
  );
  await checkSums(database, wanted);
  const costs: number[] = [];
  for (const count of [10, 10_000]) {
    await clear(database);
    await makeHosts(database, count, GROWTH_PLACEMENTS);
    await placeMany(deps, WARM_UP, clients);
    const took = await placeMany(deps, GROWTH_PLACEMENTS - WARM_UP, clients);
    costs.push(took / (GROWTH_PLACEMENTS - WARM_UP));
    say(`${count} hosts: ${((took * 1e6) / (GROWTH_PLACEMENTS - WARM_UP)).toFixed(0)} µs each`);
  }
  const [few = Number.NaN, many = Number.NaN] = costs;
  return [
    makeFigure({ bench: "place", figure: "placements_per_second", unit: "1/s" }, [rate], null),
    makeFigure({ bench: "place", figure: "growth_10_to_10000", unit: "x" }, [many / few], null),
  ];
}

/** Seconds for so many creates by so many clients. */
async function placeMany(deps: Deps, count: number, clients: number): Promise<number> {
  let left = count;
  const began = performance.now();
  await Promise.all(
    Array.from({ length: clients }, async () => {
      while ((left -= 1) >= 0) {
        const row = await createMachine(deps, {
          projectId: DEFAULT_PROJECT,
          name: undefined,
          config: CONFIG,
          idempotency: undefined,
        });
        if (row.hostId === null) throw new Error(`${row.id} was not placed: ${row.statusMessage}`);
      }
    }),
  );
  return (performance.now() - began) / 1000;
}

async function makeHosts({ db }: Database, count: number, machinesEach: number): Promise<void> {
  const rows = Array.from({ length: count }, (_, number) => ({
    id: HostId.create(),
    hostname: `host-${number}`,
    state: "ready" as const,
    arch: "amd64",
    kvm: "direct" as const,
    version: "bench",
    labels: {},
    bootId: "boot",
    epoch: 1,
    capacityCpus: machinesEach,
    capacityMemoryMib: machinesEach * CONFIG.guest.memory_mb,
    capacityDiskMib: machinesEach * CONFIG.guest.disk_mb,
  }));
  for (let at = 0; at < rows.length; at += HOST_BATCH)
    await db.insert(hosts).values(rows.slice(at, at + HOST_BATCH));
  await db.execute(sql`analyze ${hosts}`);
}

async function clear({ db }: Database): Promise<void> {
  for (const table of [placements, ops, machines, hosts]) await db.delete(table);
}

/** Throws when a host holds more than it has, or its cache is not the sum of its placements. */
async function checkSums({ db }: Database, wanted: number): Promise<void> {
  const wrong = await db.execute(sql`
    select h.id from ${hosts} h
    left join (
      select host_id, sum(cpus) cpus, sum(memory_mib) memory, sum(disk_mib) disk
      from ${placements} where running group by host_id
    ) p on p.host_id = h.id
    where h.committed_cpus <> coalesce(p.cpus, 0)
       or h.committed_memory_mib <> coalesce(p.memory, 0)
       or h.committed_disk_mib <> coalesce(p.disk, 0)
       or coalesce(p.memory, 0) > h.capacity_memory_mib
       or coalesce(p.disk, 0) > h.capacity_disk_mib`);
  if (wrong.length > 0) throw new Error(`${wrong.length} hosts are oversubscribed or miscounted`);
  const placed = await db.$count(placements);
  if (placed !== wanted) throw new Error(`${placed} placements, expected ${wanted}`);
}

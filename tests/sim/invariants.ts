/** What must hold after every step, and what must hold when nothing is left to do. */
import { MachineState } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { SimAgent } from "./agent.ts";
import { type RunLedger, Violation } from "./driver.ts";
import type { SqlEngine } from "./sql.ts";
import type { Promised } from "./world.ts";

type Sum = {
  id: string;
  state: string;
  epoch: number;
  cpus: number;
  memory: number;
  disk: number;
  committed_cpus: number;
  committed_memory_mib: number;
  committed_disk_mib: number;
  capacity_cpus: number;
  capacity_memory_mib: number;
  capacity_disk_mib: number;
};

type Row = {
  id: string;
  desired_state: string;
  observed_state: string;
  host_id: string | null;
  incarnation: number;
  status_reason: string | null;
};

const SUMS = `
  SELECT h.id, h.state, h.epoch, h.committed_cpus, h.committed_memory_mib, h.committed_disk_mib,
         h.capacity_cpus, h.capacity_memory_mib, h.capacity_disk_mib,
         coalesce(sum(CASE WHEN p.running THEN p.cpus END), 0) AS cpus,
         coalesce(sum(CASE WHEN p.running THEN p.memory_mib END), 0) AS memory,
         coalesce(sum(p.disk_mib), 0) AS disk
  FROM hosts h LEFT JOIN placements p ON p.host_id = h.id GROUP BY h.id`;

/** CPUs of the host may be promised several times over. */
const CPU_OVERCOMMIT = 4;

/** True while a living control plane holds that stream. */
export type IsHeld = (origin: { hostId: string; epoch: number }) => boolean;

/**
 * Σ placements = committed ≤ capacity, and no host is down whose newest stream is up: the
 * end of an older one is not its end. Throws Violation.
 */
export function checkHosts(engine: SqlEngine, isHeld: IsHeld): void {
  for (const row of engine.query<Sum>(SUMS)) {
    const down = row.state === "disconnected" || row.state === "lost";
    if (down && isHeld({ hostId: row.id, epoch: row.epoch }))
      throw new Violation(`host ${row.id} is ${row.state} and its newest stream is open`);
    const exact =
      row.cpus === row.committed_cpus &&
      row.memory === row.committed_memory_mib &&
      row.disk === row.committed_disk_mib;
    const fits =
      row.cpus <= row.capacity_cpus * CPU_OVERCOMMIT &&
      row.memory <= row.capacity_memory_mib &&
      row.disk <= row.capacity_disk_mib;
    if (!exact || !fits) throw new Violation(`capacity is wrong: ${JSON.stringify(row)}`);
  }
}

/** For the one who reads a failing seed. */
export function describeStore(engine: SqlEngine): string {
  const ops = engine.query("SELECT * FROM ops WHERE state IN ('pending', 'sent', 'acked')");
  const hosts = engine.query("SELECT id, hostname, state, epoch, owner_replica FROM hosts");
  const replicas = engine.query("SELECT * FROM replicas");
  return [...ops, ...hosts, ...replicas].map((row) => JSON.stringify(row)).join("\n");
}

/** Null when the fleet is as the users last asked; else what is not. */
export function checkRest(
  engine: SqlEngine,
  agents: SimAgent[],
  ledger: RunLedger,
  promised: Map<string, Promised>,
): string | null {
  const rows = new Map(engine.query<Row>("SELECT * FROM machines").map((row) => [row.id, row]));
  for (const machine of promised.values()) {
    const row = rows.get(machine.id);
    if (row === undefined) return `${machine.id} was acknowledged and has no row`;
    const wrong = checkMachine(row, machine, ledger);
    if (wrong !== null) return `${wrong}: ${JSON.stringify(row)}`;
  }
  for (const agent of agents) {
    if (agent.process.dead) return `${agent.host.name} is down`;
    const wrong = checkHost(agent, rows, ledger);
    if (wrong !== null) return wrong;
  }
  return checkLeftovers(engine, rows);
}

function checkMachine(row: Row, machine: Promised, ledger: RunLedger): string | null {
  const run = ledger.get(row.id);
  const live = row.observed_state === "started";
  if (live !== (run !== undefined)) return live ? "started without a run" : "a run nobody knows";
  if (run !== undefined && run.incarnation !== row.incarnation) return "an old incarnation runs";
  if (row.desired_state === "started" && !live) return "wanted and not running";
  if (row.desired_state === "stopped" && !["stopped", "failed"].includes(row.observed_state))
    return "wanted at rest";
  if (row.desired_state === "destroyed" && row.observed_state !== "destroyed") return "not gone";
  if (machine.wish === "destroyed" && row.desired_state !== "destroyed")
    return "acknowledged destroy was lost";
  if (machine.unsure) return null;
  if (machine.wish === "stopped" && row.desired_state === "started")
    return "acknowledged stop was lost";
  const mayHaveEnded =
    ledger.endedByThemselves.get(row.id) === row.incarnation || row.status_reason !== null;
  if (machine.wish === "started" && row.desired_state !== "started" && !mayHaveEnded)
    return "acknowledged start was lost";
  return null;
}

function checkHost(agent: SimAgent, rows: Map<string, Row>, ledger: RunLedger): string | null {
  const { name } = agent.host;
  for (const run of agent.host.runs.values())
    if (ledger.get(run.machineId) !== run) return `${name} has a run that is not counted`;
  for (const machineId of agent.host.directories) {
    const row = rows.get(machineId);
    if (row === undefined || row.observed_state === "destroyed" || row.host_id !== agent.hostId)
      return `${name} keeps something of ${machineId}`;
  }
  for (const status of agent.inventory())
    if (status.state === MachineState.DESTROYED)
      return `${name} still reports the destroyed ${status.machineId}`;
  return null;
}

function checkLeftovers(engine: SqlEngine, rows: Map<string, Row>): string | null {
  const [open] = engine.query<{ id: string; state: string; machine_id: string }>(
    "SELECT * FROM ops WHERE state IN ('pending', 'sent', 'acked')",
  );
  if (open !== undefined) return `op ${open.id} of ${open.machine_id} is still ${open.state}`;
  const [host] = engine.query<{ id: string; state: string }>(
    "SELECT * FROM hosts WHERE state <> 'ready'",
  );
  if (host !== undefined) return `host ${host.id} is ${host.state}`;
  for (const { machine_id, running } of engine.query<{ machine_id: string; running: number }>(
    "SELECT * FROM placements",
  )) {
    const state = rows.get(machine_id)?.observed_state;
    if (state === undefined || state === "destroyed") return `${machine_id} leaks its placement`;
    if ((running === 1) !== (state === "started"))
      return `${machine_id} is ${state} and its placement says running=${running}`;
  }
  return null;
}

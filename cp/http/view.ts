/** Rows → the REST API's shapes. */
import type { Host, Machine, MachineEventBody } from "../../proto/rest.ts";
import { getHost, listHosts } from "../db/queries/hosts.ts";
import type { EventRow } from "../db/schema/events.ts";
import type { HostRow } from "../db/schema/hosts.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import type { HttpDeps } from "./deps.ts";

/** Names one run: the machine and which of its runs. */
export function instanceId(machineId: string, incarnation: number): string {
  return `${machineId}.${incarnation}`;
}

export function machineView(
  row: MachineRow,
  hostName: string | null,
  progress: Machine["image_progress"],
): Machine {
  return {
    id: row.id,
    name: row.name,
    state: row.observedState,
    desired_state: row.desiredState,
    instance_id: instanceId(row.id, row.incarnation),
    version: row.version,
    host_id: row.hostId,
    host_name: hostName,
    config: row.config,
    image_digest: row.imageDigest,
    status_reason: row.statusReason,
    status_message: row.statusMessage,
    restarts: row.restarts,
    restart_at: row.restartAt?.toISOString() ?? null,
    exit_code: row.exitCode,
    exit_signal: row.exitSignal,
    boot_us: row.bootUs,
    image_progress: progress,
    created_at: row.createdAt.toISOString(),
    updated_at: row.updatedAt.toISOString(),
    started_at: row.startedAt?.toISOString() ?? null,
    stopped_at: row.stoppedAt?.toISOString() ?? null,
  };
}

export async function viewMachine(deps: HttpDeps, row: MachineRow): Promise<Machine> {
  const host = row.hostId === null ? undefined : await getHost(deps.database.db, row.hostId);
  return machineView(row, host?.hostname ?? null, deps.progress(row.id));
}

export async function viewMachines(deps: HttpDeps, rows: MachineRow[]): Promise<Machine[]> {
  const hosts = await listHosts(deps.database.db);
  const names = new Map(hosts.map((host) => [host.id, host.hostname]));
  return rows.map((row) =>
    machineView(row, names.get(row.hostId ?? "") ?? null, deps.progress(row.id)),
  );
}

export function eventView(row: EventRow): MachineEventBody {
  return {
    id: row.id,
    type: row.type,
    status: row.status,
    source: row.source,
    reason: row.reason,
    message: row.message,
    timestamp: row.createdAt.getTime(),
  };
}

export function hostView(row: HostRow, machines: number): Host {
  return {
    id: row.id,
    hostname: row.hostname,
    state: row.state,
    arch: row.arch,
    kvm: row.kvm,
    version: row.version,
    labels: row.labels,
    capacity: {
      cpus: row.capacityCpus,
      memory_mb: row.capacityMemoryMib,
      disk_mb: row.capacityDiskMib,
    },
    cordoned: row.cordoned,
    draining: row.drainMode,
    drain_deadline: row.drainDeadline?.toISOString() ?? null,
    quarantined_until: row.quarantinedUntil?.toISOString() ?? null,
    committed: {
      cpus: row.committedCpus,
      memory_mb: row.committedMemoryMib,
      disk_mb: row.committedDiskMib,
    },
    machines,
    last_seen_at: row.lastSeenAt?.toISOString() ?? null,
  };
}

/**
 * A lease keeps everybody else from changing a machine until it ends, by the
 * database's clock. Whoever changes a leased machine shows the lease's nonce.
 */
import { LvError } from "../../proto/errors.ts";
import type { Lease } from "../../proto/rest.ts";
import type { Db } from "../db/index.ts";
import { clearLease, getLease, setLease } from "../db/queries/leases.ts";
import { lockMachine } from "../db/queries/machines.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import type { Deps } from "./deps.ts";

/** Throws LEASE_HELD. The machine's row is locked. */
export async function checkLease(
  tx: Db,
  machine: MachineRow,
  nonce: string | undefined,
): Promise<void> {
  if (machine.leaseNonce === null || machine.leaseNonce === nonce) return;
  const held = await getLease(tx, machine.id);
  if (held === undefined) return;
  throw new LvError(
    "LEASE_HELD",
    `"${machine.name}" is leased by ${held.owner} until ${held.expires_at}: send its nonce as leveret-machine-lease-nonce`,
  );
}

/** Takes the lease, or renews it for its nonce. Throws LEASE_HELD, MACHINE_NOT_FOUND. */
export async function takeLease(
  deps: Deps,
  id: string,
  request: { owner: string; ttlS: number; description: string | null; nonce: string | undefined },
): Promise<Lease> {
  return deps.database.transaction(async (tx) => {
    const machine = await lockMachine(tx, id);
    if (machine === undefined) throw new LvError("MACHINE_NOT_FOUND", `No machine ${id}`);
    await checkLease(tx, machine, request.nonce);
    const kept = machine.leaseNonce !== null && machine.leaseNonce === request.nonce;
    const nonce = kept && request.nonce !== undefined ? request.nonce : crypto.randomUUID();
    return setLease(tx, id, { ...request, nonce });
  });
}

/** The lease without its nonce. Throws NOT_FOUND. */
export async function showLease(deps: Deps, machine: MachineRow): Promise<Lease> {
  const held = await getLease(deps.database.db, machine.id);
  if (held === undefined) throw new LvError("NOT_FOUND", `"${machine.name}" is not leased`);
  return held;
}

/** Idempotent for the one who has it. Throws LEASE_HELD, MACHINE_NOT_FOUND. */
export async function releaseLease(
  deps: Deps,
  id: string,
  nonce: string | undefined,
): Promise<void> {
  await deps.database.transaction(async (tx) => {
    const machine = await lockMachine(tx, id);
    if (machine === undefined) throw new LvError("MACHINE_NOT_FOUND", `No machine ${id}`);
    await checkLease(tx, machine, nonce);
    await clearLease(tx, id);
  });
}

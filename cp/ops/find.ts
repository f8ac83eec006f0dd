import { LvError } from "../../proto/errors.ts";
import { MachineId } from "../../proto/ids.ts";
import { findHosts } from "../db/queries/hosts.ts";
import { findByName, findByPrefix, getMachine } from "../db/queries/machines.ts";
import type { HostRow } from "../db/schema/hosts.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import type { Deps } from "./deps.ts";

const PREFIX = /^[0-9a-z_]+$/;

/**
 * A machine of the project by id, name, or unique beginning of an id, with or without "mch_".
 * Destroyed ones are found by their full id only. Throws MACHINE_NOT_FOUND,
 * NAME_AMBIGUOUS.
 */
export async function findMachine(
  deps: Deps,
  projectId: string,
  reference: string,
): Promise<MachineRow> {
  const { db } = deps.database;
  const notFound = new LvError("MACHINE_NOT_FOUND", `No machine "${reference.slice(0, 80)}"`);
  if (MachineId.is(reference)) {
    const row = await getMachine(db, reference);
    if (row === undefined || row.projectId !== projectId) throw notFound;
    return row;
  }
  if (reference.includes("\0")) throw notFound;
  const named = await findByName(db, projectId, reference);
  if (named !== undefined) return named;
  if (!PREFIX.test(reference)) throw notFound;
  const prefix = reference.startsWith(`${MachineId.prefix}_`)
    ? reference
    : `${MachineId.prefix}_${reference}`;
  const [row, second] = await findByPrefix(db, projectId, prefix);
  if (row === undefined) throw notFound;
  if (second !== undefined)
    throw new LvError("NAME_AMBIGUOUS", `"${reference}" begins the id of more than one machine`);
  return row;
}

/** A host by id or hostname. Throws HOST_NOT_FOUND, NAME_AMBIGUOUS. */
export async function findHost(deps: Deps, reference: string): Promise<HostRow> {
  const [row, second] = reference.includes("\0")
    ? []
    : await findHosts(deps.database.db, reference);
  if (row === undefined) throw new LvError("HOST_NOT_FOUND", `No host "${reference.slice(0, 80)}"`);
  if (second !== undefined)
    throw new LvError("NAME_AMBIGUOUS", `More than one host is named "${reference}": use its id`);
  return row;
}

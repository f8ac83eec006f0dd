/**
 * What the agent must remember across its own death, in SQLite (WAL, synchronous
 * FULL: a write that returned survives power loss).
 *
 *   ops       journalled → done (result kept) → acked (kept for deduplication,
 *             the oldest beyond KEPT_OPS are dropped)
 *   machines  the newest MachineStatus and the spec; a destroyed machine whose
 *             result was acknowledged is `forgotten`: out of the inventory, but its
 *             generation still refuses late ops
 *
 * An op is written before it is acknowledged or acted upon; a status before it is
 * sent. A crash between two writes leaves an op "journalled", and it is run again.
 *
 * On a full disk new ops are refused and what is under way is still written: beside the
 * journal lies a file of RESERVE_BYTES that is given up for that. No op is taken
 * until there is room for it again.
 */
import { Database, SQLiteError } from "bun:sqlite";
import { existsSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  type MachineSpec,
  MachineSpecSchema,
  type MachineStatus,
  MachineStatusSchema,
  type Op,
  OpSchema,
  type Result,
  ResultSchema,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { HostId } from "../../proto/ids.ts";
import { LvError } from "../../proto/errors.ts";

const KEPT_OPS = 4_096;
const KEPT_TOMBSTONES = 65_536;
const VERSION = 1;
/** Some hundred statuses and results. */
const RESERVE_BYTES = 4 << 20;

const SCHEMA = `
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ops (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  machine_id TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('journalled', 'done', 'acked')),
  op BLOB NOT NULL,
  result BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS ops_by_state ON ops (state, number);
CREATE TABLE IF NOT EXISTS machines (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  status BLOB NOT NULL,
  spec BLOB,
  forgotten INTEGER NOT NULL DEFAULT 0
) STRICT;
`;

export type JournalMachine = {
  status: MachineStatus;
  spec: MachineSpec | null;
  forgotten: boolean;
};
export type JournalOp = { state: "journalled" | "done" | "acked"; result: Result | null };

type OpRow = { state: JournalOp["state"]; op: Uint8Array; result: Uint8Array | null };
type MachineRow = { status: Uint8Array; spec: Uint8Array | null; forgotten: number };

export class Journal implements Disposable {
  readonly #db: Database;
  /** Null for a journal in memory. */
  readonly #reserve: string | null;

  /** ":memory:" for tests. Throws CONFIG_INVALID for a journal of another version. */
  constructor(path: string) {
    this.#reserve = path === ":memory:" ? null : `${path}.reserve`;
    this.#db = new Database(path, { create: true, strict: true });
    this.#db.run("PRAGMA journal_mode = WAL");
    this.#db.run("PRAGMA synchronous = FULL");
    this.#db.run(SCHEMA);
    const version = this.getMeta("version");
    if (version === null) this.setMeta("version", String(VERSION));
    else if (version !== String(VERSION))
      throw new LvError(
        "CONFIG_INVALID",
        `${path} was written by another version of Leveret (journal ${version}, expected ${VERSION})`,
      );
  }

  getMeta(key: string): string | null {
    const row = this.#db
      .query<{ value: string }, [string]>("SELECT value FROM meta WHERE key = ?")
      .get(key);
    return row?.value ?? null;
  }

  setMeta(key: string, value: string): void {
    this.#db
      .query("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2")
      .run(key, value);
  }

  /** Created once; names this host for good. */
  hostId(): HostId {
    const known = this.getMeta("host_id");
    if (known !== null) return HostId.parse(known);
    const made = HostId.create();
    this.setMeta("host_id", made);
    return made;
  }

  /** Null when the op was never journalled. */
  findOp(id: string): JournalOp | null {
    const row = this.#db.query<OpRow, [string]>("SELECT * FROM ops WHERE id = ?").get(id);
    if (row === null) return null;
    return {
      state: row.state,
      result: row.result === null ? null : fromBinary(ResultSchema, row.result),
    };
  }

  /** Throws DISK_FULL: an op that is not on disk must not be acknowledged. */
  addOp(op: Op): void {
    try {
      this.#keepReserve();
      this.#db
        .query("INSERT INTO ops (id, machine_id, state, op) VALUES (?, ?, 'journalled', ?)")
        .run(op.opId, op.machineId, toBinary(OpSchema, op));
    } catch (error) {
      if (!isFull(error)) throw error;
      throw new LvError("DISK_FULL", "The host's disk is full", { cause: error });
    }
  }

  finishOp(result: Result): void {
    this.#write(
      "UPDATE ops SET state = 'done', result = ?2 WHERE id = ?1 AND state = 'journalled'",
      result.opId,
      toBinary(ResultSchema, result),
    );
  }

  /** The result has been stored by the control plane. Safe twice. */
  acknowledge(opId: string): void {
    this.#write("UPDATE ops SET state = 'acked' WHERE id = ? AND state = 'done'", opId);
    this.#write(
      `DELETE FROM ops WHERE state = 'acked' AND number <=
         (SELECT max(number) FROM ops) - ${KEPT_OPS}`,
    );
  }

  /** Ops that were accepted and never finished, in the order of arrival. */
  unfinishedOps(): Op[] {
    return this.#db
      .query<OpRow, []>("SELECT * FROM ops WHERE state = 'journalled' ORDER BY number")
      .all()
      .map((row) => fromBinary(OpSchema, row.op));
  }

  unackedResults(): Result[] {
    return this.#db
      .query<OpRow, []>("SELECT * FROM ops WHERE state = 'done' ORDER BY number")
      .all()
      .flatMap((row) => (row.result === null ? [] : [fromBinary(ResultSchema, row.result)]));
  }

  saveMachine(status: MachineStatus, spec: MachineSpec | null): void {
    this.#write(
      `INSERT INTO machines (id, status, spec) VALUES (?1, ?2, ?3)
       ON CONFLICT (id) DO UPDATE SET status = ?2, spec = ?3`,
      status.machineId,
      toBinary(MachineStatusSchema, status),
      spec === null ? null : toBinary(MachineSpecSchema, spec),
    );
  }

  forgetMachine(id: string): void {
    this.#write("UPDATE machines SET forgotten = 1 WHERE id = ?", id);
    this.#write(
      `DELETE FROM machines WHERE forgotten = 1 AND number <=
         (SELECT max(number) FROM machines) - ${KEPT_TOMBSTONES}`,
    );
  }

  machines(): JournalMachine[] {
    return this.#db
      .query<MachineRow, []>("SELECT * FROM machines ORDER BY number")
      .all()
      .map((row) => ({
        status: fromBinary(MachineStatusSchema, row.status),
        spec: row.spec === null ? null : fromBinary(MachineSpecSchema, row.spec),
        forgotten: row.forgotten === 1,
      }));
  }

  [Symbol.dispose](): void {
    this.#db.close();
  }

  /** What must be written, into the reserve if there is no other room. */
  #write(sql: string, ...values: (string | Uint8Array | null)[]): void {
    try {
      this.#db.query(sql).run(...values);
    } catch (error) {
      if (!isFull(error) || this.#reserve === null || !existsSync(this.#reserve)) throw error;
      rmSync(this.#reserve, { force: true });
      this.#db.query(sql).run(...values);
    }
  }

  /** Throws ENOSPC. Complete under its name, or not there. */
  #keepReserve(): void {
    if (this.#reserve === null || existsSync(this.#reserve)) return;
    const fresh = `${this.#reserve}.new`;
    try {
      writeFileSync(fresh, new Uint8Array(RESERVE_BYTES));
      renameSync(fresh, this.#reserve);
    } catch (error) {
      rmSync(fresh, { force: true });
      throw error;
    }
  }
}

function isFull(error: unknown): boolean {
  if (error instanceof SQLiteError) return error.code === "SQLITE_FULL";
  return error instanceof Error && "code" in error && error.code === "ENOSPC";
}

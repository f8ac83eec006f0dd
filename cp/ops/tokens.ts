/** API tokens: `lvt_` and 32 characters of base32 (160 random bits), stored as their hash. */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { TokenId } from "../../proto/ids.ts";
import type { Scope } from "../../proto/rest.ts";
import { covers, type Principal } from "../core/access.ts";
import type { Database } from "../db/index.ts";
import {
  findLiveToken,
  getToken,
  insertToken,
  listTokens,
  lockIfNoTokens,
  revokeToken,
} from "../db/queries/tokens.ts";
import type { TokenRow } from "../db/schema/tokens.ts";
import type { Deps } from "./deps.ts";

/** In LEVERET_CP_DIR; `lev` on the same machine finds it there. */
export const ADMIN_TOKEN_FILE = "admin-token";

const ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz";
const FORM = /^lvt_[0-9a-hjkmnp-tv-z]{32}$/;
/** How long another replica may still honour a token that was revoked here. */
const CACHE_MS = 1_000;
const CACHE_MAX = 1_000;

export function newSecret(): string {
  let text = "";
  for (const byte of crypto.getRandomValues(new Uint8Array(32))) text += ALPHABET.charAt(byte & 31);
  return `lvt_${text}`;
}

export function isSecret(value: string): boolean {
  return FORM.test(value);
}

function hashOf(secret: string): string {
  return new Bun.CryptoHasher("sha256").update(secret).digest("hex");
}

/** Secrets → rows, with a short memory: a busy client costs one query a second. */
export class TokenDirectory {
  readonly #database: Database;
  readonly #now: () => number;
  readonly #known = new Map<string, { row: TokenRow; until: number }>();

  constructor(deps: Pick<Deps, "database" | "clock">) {
    this.#database = deps.database;
    this.#now = () => deps.clock.now();
  }

  /** Throws UNAUTHENTICATED: one text for every reason, so that nothing is given away. */
  async check(secret: string): Promise<TokenRow> {
    const refused = new LvError(
      "UNAUTHENTICATED",
      "The token is not valid: it is unknown, expired or revoked",
    );
    // Nothing of another form reaches the database.
    if (!isSecret(secret)) throw refused;
    const hash = hashOf(secret);
    const known = this.#known.get(hash);
    const now = this.#now();
    if (known !== undefined && known.until > now && !isOver(known.row, now)) return known.row;
    const row = await findLiveToken(this.#database.db, hash);
    this.#known.delete(hash);
    if (row === undefined) throw refused;
    if (this.#known.size >= CACHE_MAX) this.#known.clear();
    this.#known.set(hash, { row, until: now + CACHE_MS });
    return row;
  }

  /** After a revocation in this process. */
  forget(): void {
    this.#known.clear();
  }
}

function isOver(row: TokenRow, now: number): boolean {
  return row.expiresAt !== null && row.expiresAt.getTime() <= now;
}

export type TokenRequest = {
  name: string;
  scope: Scope;
  fleet: boolean;
  expiresInS: number | null;
};

/** Throws PERMISSION_DENIED for more than the caller has itself. */
export async function createToken(
  deps: Pick<Deps, "database">,
  caller: Principal,
  request: TokenRequest,
): Promise<{ row: TokenRow; secret: string }> {
  if (request.fleet && !caller.fleet)
    throw new LvError("PERMISSION_DENIED", "Only a fleet token may make a fleet token");
  if (!covers(caller.scope, request.scope))
    throw new LvError("PERMISSION_DENIED", `A ${caller.scope} token cannot make a wider one`);
  const secret = newSecret();
  const row = await insertToken(deps.database.db, {
    id: TokenId.create(),
    projectId: request.fleet ? null : caller.projectId,
    name: request.name,
    scope: request.scope,
    hash: hashOf(secret),
    expiresInS: request.expiresInS,
  });
  return { row, secret };
}

/** A fleet admin sees them all, a project's admin the project's own. */
export function visibleTokens(
  deps: Pick<Deps, "database">,
  caller: Principal,
): Promise<TokenRow[]> {
  return listTokens(deps.database.db, caller.fleet ? null : caller.projectId);
}

/** Idempotent. Throws NOT_FOUND, for another project's token too. */
export async function revoke(
  deps: Pick<Deps, "database">,
  caller: Principal,
  id: string,
): Promise<TokenRow> {
  const { db } = deps.database;
  const row = id.includes("\0") ? undefined : await getToken(db, id);
  const foreign = row !== undefined && !caller.fleet && row.projectId !== caller.projectId;
  const revoked = row === undefined || foreign ? undefined : await revokeToken(db, row.id);
  if (revoked === undefined) throw new LvError("NOT_FOUND", `No token "${id.slice(0, 80)}"`);
  return revoked;
}

/**
 * The first start makes the first token, a fleet admin, and returns it; later ones
 * return null. It is in `file` (mode 0600) before it is in the database: a crash in
 * between finds it there again, and one after it has lost nothing. A token that the
 * operator brings is neither written nor returned.
 */
export async function firstToken(
  database: Database,
  options: { file: string; given: string | null; onUnwritable: (error: unknown) => void },
): Promise<string | null> {
  return database.transaction(async (tx) => {
    if (!(await lockIfNoTokens(tx))) return null;
    const secret = options.given ?? readOrWrite(options.file, options.onUnwritable);
    await insertToken(tx, {
      id: TokenId.create(),
      projectId: null,
      name: "first-admin",
      scope: "admin",
      hash: hashOf(secret),
      expiresInS: null,
    });
    return options.given === null ? secret : null;
  });
}

function readOrWrite(file: string, onUnwritable: (error: unknown) => void): string {
  const earlier = readSecret(file);
  if (earlier !== null) return earlier;
  const secret = newSecret();
  try {
    mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
    writeFileSync(file, `${secret}\n`, { mode: 0o600, flush: true });
    chmodSync(file, 0o600);
  } catch (error) {
    onUnwritable(error);
  }
  return secret;
}

function readSecret(file: string): string | null {
  try {
    const text = readFileSync(file, "utf8").trim();
    return isSecret(text) ? text : null;
  } catch {
    return null; // none yet
  }
}

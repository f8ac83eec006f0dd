/** How a host gets its certificate, gets the next one, and loses the right to have one. */
import { keyOfRequest, sha256 } from "../../lib/x509.ts";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { HostId } from "../../proto/ids.ts";
import { createJoinToken, formatJoinToken, parseJoinToken } from "../../proto/identity.ts";
import { violatedConstraint } from "../db/index.ts";
import { enrolKey, revokeKeys } from "../db/queries/host-keys.ts";
import { insertJoinToken, pruneJoinTokens, spendJoinToken } from "../db/queries/join-tokens.ts";
import { type Authority, hashOfKey, type Peer } from "./authority.ts";
import { transact, type Deps } from "./deps.ts";

export type IssuedToken = { id: string; token: string; expiresAt: Date };

/** The token is returned this once; the database keeps a hash of its secret. */
export async function issueJoinToken(
  deps: Deps,
  authority: Authority,
  ttlSeconds: number = LIMITS.joinTokenTtlS,
): Promise<IssuedToken> {
  const made = createJoinToken(authority.hash);
  const { id, secret } = made;
  return transact(deps, async (tx) => {
    await pruneJoinTokens(tx);
    const expiresAt = await insertJoinToken(tx, { id, secretHash: hashOf(secret), ttlSeconds });
    return { id, token: formatJoinToken(made), expiresAt };
  });
}

export type Enrolment = { token: string; hostId: string; csr: Uint8Array };

/**
 * Idempotent for one key: a token that was spent on it brings it a certificate again.
 * Throws UNAUTHENTICATED (the token), PERMISSION_DENIED (another key speaks for the
 * host, or this one was revoked), BAD_REQUEST.
 */
export async function enroll(
  deps: Deps,
  authority: Authority,
  request: Enrolment,
): Promise<Uint8Array> {
  const { id, secret } = parseJoinToken(request.token);
  const hostId = HostId.parse(request.hostId);
  const publicKey = await requestedKey(request.csr);
  const keyHash = hashOfKey(publicKey);
  const taken = new LvError(
    "PERMISSION_DENIED",
    `Host ${hostId} has another key, or this key was revoked: an administrator has to revoke the host first`,
  );
  try {
    const issued = await transact(deps, async (tx) => {
      if (!(await spendJoinToken(tx, { id, secretHash: hashOf(secret), keyHash })))
        throw new LvError("UNAUTHENTICATED", "The join token is unknown, spent or has expired");
      // Nothing is signed for a stranger.
      const made = await authority.issueHost(hostId, publicKey);
      if (!(await enrolKey(tx, { keyHash, hostId, notAfter: made.notAfter }))) throw taken;
      return made;
    });
    deps.log.info({ hostId, keyHash, joinToken: id }, "host enrolled");
    return issued.certificate;
  } catch (error) {
    const why = violatedConstraint(error) === "host_keys_one_per_host" ? taken : error;
    deps.log.warn({ hostId, joinToken: id, reason: LvError.from(why).reason }, "enrolment refused");
    throw why;
  }
}

/** The next certificate of a host that is connected. Throws PERMISSION_DENIED, BAD_REQUEST. */
export async function renew(
  deps: Deps,
  authority: Authority,
  peer: Peer,
  csr: Uint8Array,
): Promise<{ certificate: Uint8Array; notAfter: Date }> {
  const publicKey = await requestedKey(csr);
  const { hostId, keyHash } = peer;
  if (hashOfKey(publicKey) !== keyHash)
    throw new LvError("PERMISSION_DENIED", "A renewal is for the key that is connected");
  const issued = await authority.issueHost(hostId, publicKey);
  const { notAfter } = issued;
  if (!(await enrolKey(deps.database.db, { keyHash, hostId, notAfter })))
    throw new LvError("PERMISSION_DENIED", `The key of host ${hostId} was revoked`);
  return issued;
}

/** The keys that must not be served any longer; none when the host had none. */
export async function revokeHost(deps: Deps, hostId: string): Promise<string[]> {
  const keys = await revokeKeys(deps.database.db, hostId);
  if (keys.length > 0) deps.log.warn({ hostId, keys }, "host revoked");
  return keys;
}

async function requestedKey(csr: Uint8Array): Promise<Uint8Array> {
  const publicKey = csr.length > LIMITS.csrBytes ? null : await keyOfRequest(csr);
  if (publicKey === null)
    throw new LvError("BAD_REQUEST", "That is not a certificate request of a P-256 key");
  return publicKey;
}

function hashOf(secret: string): string {
  return sha256(secret).toString("hex");
}

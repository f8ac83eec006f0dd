/**
 * The control plane's own CA. It is made by whichever replica is first and lives in
 * the database, its private key sealed with the secret key that all replicas share.
 * It signs the hub's certificates (one per process, at its start) and the hosts'.
 */
import { hostname } from "node:os";
import { isIP } from "node:net";
import { X509Certificate } from "node:crypto";
import type { Clock } from "../../lib/clock.ts";
import { LIMITS } from "../../lib/limits.ts";
import * as x509 from "../../lib/x509.ts";
import { LvError } from "../../proto/errors.ts";
import type { HostId } from "../../proto/ids.ts";
import { HUB_URI, base32, hostIdOfUris, hostUri } from "../../proto/identity.ts";
import type { Db } from "../db/index.ts";
import { getAuthority, putAuthority } from "../db/queries/authority.ts";
import { seal, unseal } from "./seal.ts";

const PURPOSE = "authority key";
const DAY_MS = 86_400_000;
const CA_DAYS = 3_650;
const SERVER_DAYS = 825;
/** Certificates begin in the past: a host's clock may be behind ours. */
const BACKDATE_MS = 3_600_000;

/** Who called, by the certificate of the connection. Times are unix milliseconds. */
export type Peer = { hostId: HostId; keyHash: string; notAfter: number };

export type ServerCredentials = { key: string; cert: string; ca: string };

/** Of a public key, as the database has it: SHA-256 of SubjectPublicKeyInfo in hex. */
export function hashOfKey(publicKey: Uint8Array): string {
  return x509.sha256(publicKey).toString("hex");
}

export class Authority {
  readonly #keys: x509.Authority;
  readonly #certificate: X509Certificate;
  readonly #clock: Clock;

  private constructor(keys: x509.Authority, clock: Clock) {
    this.#keys = keys;
    this.#certificate = new X509Certificate(keys.certificate);
    this.#clock = clock;
  }

  /** Throws CONFIG_INVALID when the secret key is not the one the CA's key was sealed with. */
  static async open(db: Db, secretKey: Uint8Array, clock: Clock): Promise<Authority> {
    if ((await getAuthority(db)) === undefined) {
      const made = await x509.createAuthority("Leveret CA", validity(clock, CA_DAYS));
      const sealedKey = seal(secretKey, PURPOSE, made.keyPem);
      await putAuthority(db, { certificate: made.certificate, sealedKey });
    }
    const stored = await getAuthority(db);
    if (stored === undefined) throw new Error("the authority was not stored");
    const keyPem = unseal(secretKey, PURPOSE, stored.sealedKey);
    if (keyPem === null)
      throw new LvError(
        "CONFIG_INVALID",
        "LEVERET_SECRET_KEY (or secret.key in LEVERET_CP_DIR) is not the key that this database's CA was sealed with",
      );
    return new Authority({ certificate: stored.certificate, keyPem }, clock);
  }

  /** DER. */
  get certificate(): Uint8Array {
    return this.#keys.certificate;
  }

  /** What join tokens carry. */
  get hash(): string {
    return base32(x509.sha256(this.#keys.certificate));
  }

  /** A key and a certificate of this process's own, for these DNS names and addresses too. */
  async serverCredentials(names: string[]): Promise<ServerCredentials> {
    const key = await x509.createKey();
    const known = new Set(["localhost", "127.0.0.1", "::1", hostname(), ...names]);
    const certificate = await x509.issue(this.#keys, {
      ...validity(this.#clock, SERVER_DAYS),
      subject: "leveret hub",
      usage: "server",
      publicKey: x509.publicKeyOf(key),
      names: [
        { type: "url", value: HUB_URI },
        ...[...known].map((value) => ({ type: isIP(value) === 0 ? "dns" : "ip", value }) as const),
      ],
    });
    const ca = x509.pem(this.#keys.certificate, "CERTIFICATE");
    // The CA goes along, so that a host that has only its hash can see it.
    return { key, cert: x509.pem(certificate, "CERTIFICATE") + ca, ca };
  }

  async issueHost(
    hostId: HostId,
    publicKey: Uint8Array,
  ): Promise<{ certificate: Uint8Array; notAfter: Date }> {
    const valid = validity(this.#clock, LIMITS.hostCertificateDays);
    const certificate = await x509.issue(this.#keys, {
      ...valid,
      subject: hostId,
      usage: "client",
      publicKey,
      names: [{ type: "url", value: hostUri(hostId) }],
    });
    return { certificate, notAfter: valid.notAfter };
  }

  /** Null for everything but a certificate of this CA, valid now, that names one host. */
  identify(der: Uint8Array): Peer | null {
    const certificate = new X509Certificate(der);
    if (!x509.isIssuedBy(certificate, this.#certificate, this.#clock.now())) return null;
    const hostId = hostIdOfUris(x509.urisOf(certificate));
    if (hostId === null) return null;
    const keyHash = hashOfKey(x509.publicKeyIn(certificate));
    return { hostId, keyHash, notAfter: Date.parse(certificate.validTo) };
  }
}

function validity(clock: Clock, days: number): x509.Validity {
  const now = clock.now();
  return { notBefore: new Date(now - BACKDATE_MS), notAfter: new Date(now + days * DAY_MS) };
}

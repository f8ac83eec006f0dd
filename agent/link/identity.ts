/**
 * The host's key and certificate, in `<agent directory>/identity`, readable by root
 * only.
 *
 *   (nothing) ── key made, token checked against the hub's CA, Enroll ──► enrolled
 *   enrolled ── at two thirds of the life: CertificateRequest on Connect ──► renewed
 *   enrolled ── expired, or a token of another control plane ──► Enroll again
 *   enrolled ── refused, and there is a token not used so far ──► Enroll with a new key
 *
 * key.pem is written before it is first used and ca.pem before certificate.pem, each
 * under its name only when complete: a crash in between leads to Enroll with the same
 * key again, which its token allows.
 */
import { X509Certificate } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Clock } from "../../lib/clock.ts";
import type { Log } from "../../lib/log.ts";
import { LIMITS } from "../../lib/limits.ts";
import * as x509 from "../../lib/x509.ts";
import { LvError } from "../../proto/errors.ts";
import type { HostId } from "../../proto/ids.ts";
import { base32, hostIdOfUris, type JoinToken, parseJoinToken } from "../../proto/identity.ts";
import { type Credentials, dial } from "./transport.ts";
import { findAuthority } from "./trust.ts";

export type IdentityOptions = {
  dir: string;
  hostId: HostId;
  /** null = none was given. */
  joinToken: string | null;
  clock: Clock;
  log: Log;
};

type Held = { ca: X509Certificate; certificate: X509Certificate };

/** What Enroll says that another try will not change. */
const FINAL = new Set(["UNAUTHENTICATED", "PERMISSION_DENIED", "BAD_REQUEST", "UNIMPLEMENTED"]);
const MODE = 0o600;

export class Identity {
  readonly #options: IdentityOptions;
  readonly #token: JoinToken | null;
  readonly #dir: string;
  #keyPem: string;
  #held: Held | null;

  private constructor(options: IdentityOptions, dir: string, keyPem: string) {
    this.#options = options;
    this.#dir = dir;
    this.#keyPem = keyPem;
    this.#token = parseToken(options.joinToken);
    this.#held = this.#load();
  }

  /** Throws CONFIG_INVALID when there is neither a certificate that can be used nor a token. */
  static async open(options: IdentityOptions): Promise<Identity> {
    const dir = join(options.dir, "identity");
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    const keyPem = read(join(dir, "key.pem")) ?? (await makeKey(join(dir, "key.pem")));
    const identity = new Identity(options, dir, keyPem);
    if (identity.#mustEnroll() && identity.#token === null) throw identity.#noWayIn();
    return identity;
  }

  /** What a connection is opened with. Throws CONFIG_INVALID before ensure() has succeeded. */
  get credentials(): Credentials {
    if (this.#held === null) throw this.#noWayIn();
    const { ca, certificate } = this.#held;
    return { ca: ca.toString(), cert: certificate.toString(), key: this.#keyPem };
  }

  /**
   * Enrolls when that is needed; one try. Throws CONFIG_INVALID for what only a person
   * can put right, LINK_LOST and the like for what may pass.
   */
  async ensure(signal: AbortSignal, controlPlaneAddr: string): Promise<void> {
    if (!this.#mustEnroll()) return;
    if (this.#token === null) throw this.#noWayIn();
    await this.#enroll(this.#token, this.#keyPem, controlPlaneAddr, signal);
  }

  /**
   * After the control plane has refused this host: with a token that was not used yet,
   * enrolls with a new key, as a host that was revoked has to. False when there is no
   * such token or it does not help either; what was there before is kept then.
   */
  async joinAgain(signal: AbortSignal, controlPlaneAddr: string): Promise<boolean> {
    if (this.#token === null || read(this.#tokenFile) === this.#token.id) return false;
    try {
      await this.#enroll(this.#token, await x509.createKey(), controlPlaneAddr, signal);
      return true;
    } catch (error) {
      const { reason, message } = LvError.from(error);
      this.#options.log.warn({ reason, detail: message }, "the join token does not help");
      return false;
    }
  }

  async #enroll(
    token: JoinToken,
    keyPem: string,
    controlPlaneAddr: string,
    signal: AbortSignal,
  ): Promise<void> {
    const { hostId, joinToken, log } = this.#options;
    const ca = await findAuthority(controlPlaneAddr, token.caHash, signal);
    using link = dial(
      { controlPlaneAddr, insecureLink: false },
      { ca: x509.pem(ca, "CERTIFICATE"), cert: null, key: null },
    );
    const csr = await x509.createRequest(keyPem, hostId);
    try {
      const reply = await link.client.enroll(
        { token: joinToken ?? "", hostId, csr },
        { signal, timeoutMs: LIMITS.enrollTimeoutMs },
      );
      this.#keep(ca, reply.certificate, keyPem);
      write(this.#tokenFile, token.id);
    } catch (error) {
      const { reason, message } = LvError.from(error);
      if (!FINAL.has(reason)) throw error;
      throw new LvError("CONFIG_INVALID", `LEVERET_JOIN_TOKEN: the control plane says: ${message}`);
    }
    log.info({ hostId, notAfter: this.#held?.certificate.validTo }, "enrolled");
  }

  /** True from two thirds of the certificate's life on. */
  get renewalDue(): boolean {
    if (this.#held === null) return false;
    const { validFrom, validTo } = this.#held.certificate;
    const [from, to] = [Date.parse(validFrom), Date.parse(validTo)];
    return this.#options.clock.now() >= from + ((to - from) * 2) / 3;
  }

  /** For a CertificateRequest: the key stays the same. */
  request(): Promise<Uint8Array> {
    return x509.createRequest(this.#keyPem, this.#options.hostId);
  }

  /** Takes the certificate that was issued, if it is ours; later connections use it. */
  renewed(der: Uint8Array): void {
    if (this.#held === null) return;
    const { log } = this.#options;
    try {
      this.#keep(new Uint8Array(this.#held.ca.raw), der);
      log.info({ notAfter: this.#held.certificate.validTo }, "certificate renewed");
    } catch (error) {
      log.error({ err: error }, "cannot take over the renewed certificate");
    }
  }

  /** Which token brought the certificate: its id, no secret. */
  get #tokenFile(): string {
    return join(this.#dir, "token");
  }

  #keep(ca: Uint8Array, der: Uint8Array, keyPem = this.#keyPem): void {
    const held = this.#check(new X509Certificate(ca), new X509Certificate(der), keyPem);
    if (held === null)
      throw new LvError("BAD_REQUEST", "The control plane issued a certificate that is not ours");
    if (keyPem !== this.#keyPem) write(join(this.#dir, "key.pem"), keyPem);
    this.#keyPem = keyPem;
    write(join(this.#dir, "ca.pem"), held.ca.toString());
    write(join(this.#dir, "certificate.pem"), held.certificate.toString());
    this.#held = held;
  }

  #load(): Held | null {
    const ca = read(join(this.#dir, "ca.pem"));
    const certificate = read(join(this.#dir, "certificate.pem"));
    if (ca === null || certificate === null) return null;
    return this.#check(new X509Certificate(ca), new X509Certificate(certificate), this.#keyPem);
  }

  /** Whether it has expired is asked at each use; everything else now. */
  #check(ca: X509Certificate, certificate: X509Certificate, keyPem: string): Held | null {
    const ours =
      certificate.checkIssued(ca) &&
      certificate.verify(ca.publicKey) &&
      hostIdOfUris(x509.urisOf(certificate)) === this.#options.hostId &&
      Buffer.compare(x509.publicKeyIn(certificate), x509.publicKeyOf(keyPem)) === 0;
    return ours ? { ca, certificate } : null;
  }

  #mustEnroll(): boolean {
    if (this.#held === null) return true;
    const { ca, certificate } = this.#held;
    if (this.#options.clock.now() >= Date.parse(certificate.validTo)) return true;
    const hash = base32(x509.sha256(new Uint8Array(ca.raw)));
    return this.#token !== null && this.#token.caHash !== hash;
  }

  #noWayIn(): LvError {
    const what = this.#held === null ? "has no certificate" : "has a certificate that has expired";
    return new LvError(
      "CONFIG_INVALID",
      `This host ${what}: set LEVERET_JOIN_TOKEN to what \`lev hosts token\` prints`,
    );
  }
}

function parseToken(text: string | null): JoinToken | null {
  if (text === null) return null;
  try {
    return parseJoinToken(text);
  } catch (error) {
    throw new LvError("CONFIG_INVALID", `LEVERET_JOIN_TOKEN: ${LvError.from(error).message}`);
  }
}

async function makeKey(path: string): Promise<string> {
  const key = await x509.createKey();
  write(path, key);
  return key;
}

function read(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
    throw error;
  }
}

function write(path: string, text: string): void {
  const draft = `${path}.new`;
  writeFileSync(draft, text, { mode: MODE, flush: true });
  renameSync(draft, path);
}

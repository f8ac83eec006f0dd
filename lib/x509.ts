/**
 * X.509 for the link: P-256 keys, the control plane's CA, and the certificates it
 * issues. Certificates are DER, private keys PKCS#8 PEM. Everything is asynchronous,
 * since WebCrypto is, and since the library is loaded at the first call: it takes
 * 200 ms, which a link without TLS need not pay.
 */
import { createHash, createPublicKey, randomBytes, X509Certificate } from "node:crypto";
import type * as Library from "@peculiar/x509";

export type Authority = { certificate: Uint8Array; keyPem: string };
export type Validity = { notBefore: Date; notAfter: Date };
export type Name = { type: "dns" | "ip" | "url"; value: string };

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const SERVER_AUTH = "1.3.6.1.5.5.7.3.1";
const CLIENT_AUTH = "1.3.6.1.5.5.7.3.2";

let loading: Promise<typeof Library> | undefined;

function library(): Promise<typeof Library> {
  loading ??= load();
  return loading;
}

/**
 * The library's dependency container (tsyringe) refuses to load without the two
 * functions of the metadata proposal that it reads decorators with. Its classes have
 * no constructor parameters, so there is never any metadata to be found. A static
 * import cannot be used: Bun evaluates CommonJS before the modules that import it.
 */
async function load(): Promise<typeof Library> {
  for (const name of ["getMetadata", "getOwnMetadata"])
    if (!(name in Reflect)) Object.defineProperty(Reflect, name, { value: () => undefined });
  return import("@peculiar/x509");
}

/** A new private key. */
export async function createKey(): Promise<string> {
  const pair = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  return pem(
    new Uint8Array(await crypto.subtle.exportKey("pkcs8", pair.privateKey)),
    "PRIVATE KEY",
  );
}

export async function createAuthority(name: string, validity: Validity): Promise<Authority> {
  const x509 = await library();
  const keyPem = await createKey();
  const keys = await importKeys(keyPem);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: `CN=${name}`,
    ...validity,
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(
        x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign,
        true,
      ),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate: new Uint8Array(certificate.rawData), keyPem };
}

export type Leaf = Validity & {
  /** Common name: for people. */
  subject: string;
  names: Name[];
  /** A certificate of one use is refused for the other: no host can pose as the hub. */
  usage: "server" | "client";
  /** SubjectPublicKeyInfo, DER. */
  publicKey: Uint8Array;
};

export async function issue(authority: Authority, leaf: Leaf): Promise<Uint8Array> {
  const x509 = await library();
  const issuer = new x509.X509Certificate(buffer(authority.certificate));
  const { privateKey } = await importKeys(authority.keyPem);
  const { notBefore, notAfter } = leaf;
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serial(),
    subject: `CN=${leaf.subject}`,
    issuer: issuer.subject,
    notBefore,
    notAfter,
    signingAlgorithm: ALGORITHM,
    publicKey: await importPublic(leaf.publicKey),
    signingKey: privateKey,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([leaf.usage === "server" ? SERVER_AUTH : CLIENT_AUTH]),
      new x509.SubjectAlternativeNameExtension(leaf.names),
      await x509.AuthorityKeyIdentifierExtension.create(issuer, false),
    ],
  });
  return new Uint8Array(certificate.rawData);
}

/** A PKCS#10 request, DER. Its subject is a word to people, and trusted by nobody. */
export async function createRequest(keyPem: string, subject: string): Promise<Uint8Array> {
  const x509 = await library();
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: `CN=${subject}`,
    keys: await importKeys(keyPem),
    signingAlgorithm: ALGORITHM,
  });
  return new Uint8Array(request.rawData);
}

/** The request's public key; null when it is none, is not P-256 or is not signed by its own key. */
export async function keyOfRequest(der: Uint8Array): Promise<Uint8Array | null> {
  const x509 = await library();
  try {
    const request = new x509.Pkcs10CertificateRequest(buffer(der));
    const publicKey = new Uint8Array(request.publicKey.rawData);
    await importPublic(publicKey);
    return (await request.verify()) ? publicKey : null;
  } catch {
    return null; // whatever an unknown peer has sent
  }
}

/** SubjectPublicKeyInfo of a private key, DER. */
export function publicKeyOf(keyPem: string): Uint8Array {
  return new Uint8Array(createPublicKey(keyPem).export({ type: "spki", format: "der" }));
}

/** SubjectPublicKeyInfo of a certificate, DER. */
export function publicKeyIn(certificate: X509Certificate): Uint8Array {
  return new Uint8Array(certificate.publicKey.export({ type: "spki", format: "der" }));
}

/** True when the CA has signed it and it is valid at this time (unix milliseconds). */
export function isIssuedBy(
  certificate: X509Certificate,
  ca: X509Certificate,
  now: number,
): boolean {
  return (
    certificate.checkIssued(ca) &&
    certificate.verify(ca.publicKey) &&
    Date.parse(certificate.validFrom) <= now &&
    now < Date.parse(certificate.validTo)
  );
}

/** The URI names of a certificate (RFC 5280, 4.2.1.6). */
export function urisOf(certificate: X509Certificate): string[] {
  // Node quotes what could be taken for a separator; ours need no quotes.
  return (certificate.subjectAltName ?? "")
    .split(", ")
    .flatMap((name) => (name.startsWith("URI:") ? [name.slice(4)] : []));
}

export function sha256(data: Uint8Array | string): Buffer {
  return createHash("sha256").update(data).digest();
}

export function pem(der: Uint8Array, label: "CERTIFICATE" | "PRIVATE KEY"): string {
  const lines =
    Buffer.from(der)
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join("\n")}\n-----END ${label}-----\n`;
}

async function importKeys(keyPem: string): Promise<CryptoKeyPair> {
  const der = Buffer.from(keyPem.replaceAll(/-----[^-]+-----|\s/g, ""), "base64");
  const privateKey = await crypto.subtle.importKey("pkcs8", der, ALGORITHM, true, ["sign"]);
  return { privateKey, publicKey: await importPublic(publicKeyOf(keyPem)) };
}

function importPublic(spki: Uint8Array): Promise<CryptoKey> {
  return crypto.subtle.importKey("spki", buffer(spki), ALGORITHM, true, ["verify"]);
}

/** 127 random bits: positive, and nothing that could be guessed (CA/B Forum BR 7.1). */
function serial(): string {
  const bytes = randomBytes(16);
  bytes[0] = (bytes[0] ?? 0) & 0x7f;
  return bytes.toString("hex");
}

/** A copy that is an ArrayBuffer of its own. */
function buffer(bytes: Uint8Array): ArrayBuffer {
  return new Uint8Array(bytes).buffer;
}

/** Whom the agent talks to: the hub of the CA that it was told of, and nobody else. */
import { X509Certificate } from "node:crypto";
import { connect, type PeerCertificate } from "node:tls";
import { LIMITS } from "../../lib/limits.ts";
import { sha256, urisOf } from "../../lib/x509.ts";
import { LvError } from "../../proto/errors.ts";
import { base32, HUB_URI } from "../../proto/identity.ts";

/**
 * For `checkServerIdentity`, after the chain was verified. The hub is known by its URI:
 * that it is the CA's is enough, whatever name or forwarded port it was reached by. A
 * host's certificate, of the same CA, does not have that name.
 */
export function checkHub(_: string, certificate: PeerCertificate): Error | undefined {
  if (urisOf(new X509Certificate(certificate.raw)).includes(HUB_URI)) return undefined;
  return new Error(`The certificate is not that of a control plane (${HUB_URI})`);
}

/**
 * The CA with this hash (base32 of SHA-256), as the hub shows it; DER. Nothing is sent
 * on this connection, and the next one verifies the hub against what was found.
 * Throws CONFIG_INVALID when another CA's hub answers, LINK_LOST when none does.
 */
export async function findAuthority(
  address: string,
  hash: string,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const { hostname, port } = new URL(`https://${address}`);
  const host = hostname.replace(/^\[|\]$/g, "");
  const chain = await shownChain(host, Number(port === "" ? 443 : port), signal);
  const found = chain.find((der) => base32(sha256(der)) === hash);
  if (found !== undefined) return found;
  throw new LvError(
    "CONFIG_INVALID",
    `LEVERET_JOIN_TOKEN is not one of the control plane at ${address}: its CA is another`,
  );
}

function shownChain(host: string, port: number, signal: AbortSignal): Promise<Uint8Array[]> {
  return new Promise((resolve, reject) => {
    // Looked at only: what it says is worth nothing before its hash was compared.
    const socket = connect({ host, port, rejectUnauthorized: false, ALPNProtocols: ["h2"] });
    const end = (act: () => void): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
      socket.destroy();
      act();
    };
    const fail = (why: string, cause?: unknown): void =>
      end(() =>
        reject(new LvError("LINK_LOST", `Cannot reach ${host}:${port}: ${why}`, { cause })),
      );
    const onAbort = (): void => fail("cancelled");
    const timer = setTimeout(() => fail("no answer"), LIMITS.enrollTimeoutMs);
    signal.addEventListener("abort", onAbort, { once: true });
    socket.once("error", (error) => fail(error.message, error));
    socket.once("close", () => fail("the connection was closed"));
    socket.once("secureConnect", () => {
      const chain = ders(socket.getPeerCertificate(true));
      end(() => resolve(chain));
    });
  });
}

/** The chain is a linked list; that of a self-signed certificate ends in itself. */
function ders(leaf: PeerCertificate & { issuerCertificate?: PeerCertificate }): Uint8Array[] {
  const found: Uint8Array[] = [];
  const MAX = 8;
  let at: typeof leaf | undefined = leaf;
  while (at?.raw !== undefined && found.length < MAX) {
    found.push(new Uint8Array(at.raw));
    const next: typeof leaf | undefined = at.issuerCertificate;
    at = next === at ? undefined : next;
  }
  return found;
}

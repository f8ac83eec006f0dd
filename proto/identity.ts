/**
 * Who is who on the link. Hosts and the hub are named by SPIFFE URIs in the
 * certificates of the control plane's own CA; a join token brings a host to its first
 * certificate:
 *
 *   lvj_<id>_<secret>_<SHA-256 of the CA's certificate>      all Crockford base32
 *
 * The hash tells the agent whom it talks to before it has a certificate; the secret is
 * kept by the control plane as a hash only.
 */
import { HostId } from "./ids.ts";
import { LvError } from "./errors.ts";

export const HUB_URI = "spiffe://leveret/hub";
const HOST_PREFIX = "spiffe://leveret/host/";

export function hostUri(hostId: HostId): string {
  return `${HOST_PREFIX}${hostId}`;
}

/** Null for every name that is not exactly one host's. */
export function hostIdOfUris(uris: string[]): HostId | null {
  const [uri, second] = uris;
  if (uri === undefined || second !== undefined || !uri.startsWith(HOST_PREFIX)) return null;
  const id = uri.slice(HOST_PREFIX.length);
  return HostId.is(id) ? id : null;
}

export type JoinToken = { id: string; secret: string; caHash: string };

const ID_LENGTH = 20;
const SECRET_LENGTH = 32;
const HASH_LENGTH = 52;
const TOKEN = new RegExp(
  `^lvj_([0-9a-z]{${ID_LENGTH}})_([0-9a-z]{${SECRET_LENGTH}})_([0-9a-z]{${HASH_LENGTH}})$`,
);
const ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz";

/** `caHash`: base32 of the SHA-256 of the CA's certificate. */
export function createJoinToken(caHash: string): JoinToken {
  return { id: random(ID_LENGTH), secret: random(SECRET_LENGTH), caHash };
}

export function formatJoinToken({ id, secret, caHash }: JoinToken): string {
  return `lvj_${id}_${secret}_${caHash}`;
}

/** Throws UNAUTHENTICATED; the token is never repeated. */
export function parseJoinToken(text: string): JoinToken {
  const [, id, secret, caHash] = TOKEN.exec(text) ?? [];
  if (id === undefined || secret === undefined || caHash === undefined)
    throw new LvError("UNAUTHENTICATED", "That is not a join token (lvj_…)");
  return { id, secret, caHash };
}

/** Five bits a character, the last one padded with zeros. */
export function base32(bytes: Uint8Array): string {
  let text = "";
  let bits = 0;
  let held = 0;
  for (const byte of bytes) {
    held = (held << 8) | byte;
    for (bits += 8; bits >= 5; bits -= 5) text += ALPHABET.charAt((held >> (bits - 5)) & 31);
    held &= (1 << bits) - 1;
  }
  return bits === 0 ? text : text + ALPHABET.charAt((held << (5 - bits)) & 31);
}

function random(length: number): string {
  const bytes = crypto.getRandomValues(new Uint8Array(length));
  return Array.from(bytes, (byte) => ALPHABET.charAt(byte & 31)).join("");
}

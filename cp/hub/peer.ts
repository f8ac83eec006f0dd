/** The identity of a connection, as its calls see it. */
import type { IncomingMessage } from "node:http";
import type { Http2ServerRequest } from "node:http2";
import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import { type ContextValues, createContextKey, createContextValues } from "@connectrpc/connect";
import { LvError } from "../../proto/errors.ts";
import type { Authority, Peer } from "../ops/authority.ts";

/** null: plain h2c on loopback, where whoever connects may claim any id. */
export type Caller = Peer | "stranger" | null;

export const callerKey = createContextKey<Caller>("stranger", {
  description: "who opened the connection",
});

/**
 * Checked for each call. Both have to agree: the TLS library, which has checked the
 * chain and what the certificate may be used for, and our own reading of its names.
 */
export function contextOf(
  authority: Authority | null,
  request: Http2ServerRequest | IncomingMessage,
): ContextValues {
  const socket = "stream" in request ? request.stream.session?.socket : request.socket;
  return createContextValues().set(callerKey, callerOf(authority, socket));
}

/** Asked of the connection's socket, for each call anew. */
export function callerOf(authority: Authority | null, socket: Socket | undefined): Caller {
  if (authority === null) return null;
  if (!(socket instanceof TLSSocket) && !(socket !== undefined && "authorized" in socket))
    return "stranger";
  const tls = socket as TLSSocket;
  if (!tls.authorized) return "stranger";
  const { raw } = tls.getPeerCertificate();
  return raw === undefined ? "stranger" : (authority.identify(raw) ?? "stranger");
}

/** The host's certificate, or null on a plain link. Throws UNAUTHENTICATED for a stranger. */
export function requirePeer(caller: Caller): Peer | null {
  if (caller === "stranger") throw stranger();
  return caller;
}

export function stranger(): LvError {
  return new LvError(
    "UNAUTHENTICATED",
    "This call needs a host's certificate that is valid and of this control plane's CA",
  );
}

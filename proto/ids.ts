/** Ids are branded strings, "<prefix>_" and 20 characters of Crockford base32 in lower case (100 random bits). */
import { LvError } from "./errors.ts";

declare const brand: unique symbol;
type Id<Kind extends string> = string & { readonly [brand]: Kind };

export type MachineId = Id<"machine">;
export type HostId = Id<"host">;
export type OpId = Id<"op">;
export type EventId = Id<"event">;
export type SessionId = Id<"session">;
export type ReplicaId = Id<"replica">;
export type RequestId = Id<"request">;
export type ProjectId = Id<"project">;
export type TokenId = Id<"token">;
export type AuditId = Id<"audit entry">;
export type ImageJobId = Id<"image job">;

const ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz";
const BODY = /^[0-9a-hjkmnp-tv-z]{20}$/;

/** Fills the array with random bytes; injected so that tests can be deterministic. */
export type RandomFill = (bytes: Uint8Array) => void;

const systemRandom: RandomFill = (bytes) => void crypto.getRandomValues(bytes);

function make(prefix: string, random: RandomFill): string {
  const bytes = new Uint8Array(20);
  random(bytes);
  let body = "";
  for (const byte of bytes) body += ALPHABET.charAt(byte & 31);
  return `${prefix}_${body}`;
}

function isId(prefix: string, value: string): boolean {
  return value.startsWith(`${prefix}_`) && BODY.test(value.slice(prefix.length + 1));
}

function kind<T extends string>(prefix: string, noun: string) {
  return {
    prefix,
    create: (random: RandomFill = systemRandom): T => make(prefix, random) as T,
    is: (value: string): value is T => isId(prefix, value),
    /** Throws BAD_REQUEST when the string is not an id of this kind. */
    parse: (value: string): T => {
      if (!isId(prefix, value))
        throw new LvError("BAD_REQUEST", `"${value.slice(0, 80)}" is not a ${noun} id`);
      return value as T;
    },
  };
}

export const MachineId = kind<MachineId>("mch", "machine");
export const HostId = kind<HostId>("hst", "host");
export const OpId = kind<OpId>("op", "operation");
export const EventId = kind<EventId>("evt", "event");
export const SessionId = kind<SessionId>("ses", "session");
export const ReplicaId = kind<ReplicaId>("rep", "replica");
export const RequestId = kind<RequestId>("req", "request");
export const ProjectId = kind<ProjectId>("prj", "project");
export const TokenId = kind<TokenId>("tok", "token");
export const AuditId = kind<AuditId>("aud", "audit entry");
export const ImageJobId = kind<ImageJobId>("job", "image job");

/** Made by the migration that introduced projects; what names no project belongs to it. */
export const DEFAULT_PROJECT = ProjectId.parse("prj_00000000000000000000");

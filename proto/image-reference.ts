/**
 * Image references as people type them, normalised as Docker does (distribution/reference):
 * "busybox" is docker.io/library/busybox:latest, "host:5000/a/b@sha256:…" stays what it is.
 */
import { LvError } from "./errors.ts";

export type Reference = {
  /** Host with an optional port; "docker.io" for Docker Hub. */
  registry: string;
  repository: string;
  /** null only when the reference has a digest and no tag. */
  tag: string | null;
  /** "sha256:…"; wins over the tag. */
  digest: string | null;
};

const DOMAIN =
  /^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:.]+\])(?::(\d{1,5}))?$/;
const COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

export function isDigest(value: string): boolean {
  return DIGEST.test(value);
}

/** Throws IMAGE_REFERENCE_INVALID with the part that is wrong. */
export function parseReference(text: string): Reference {
  const fail = (why: string): never => {
    throw new LvError(
      "IMAGE_REFERENCE_INVALID",
      `"${text.slice(0, 300)}" is not an image reference: ${why}`,
    );
  };
  if (text.length > 1024) fail("it is longer than 1024 characters");
  const at = text.indexOf("@");
  const digest = at < 0 ? null : text.slice(at + 1);
  if (digest !== null && !DIGEST.test(digest))
    fail(`"${digest.slice(0, 100)}" is not a sha256 digest`);
  const named = at < 0 ? text : text.slice(0, at);
  const colon = named.lastIndexOf(":");
  const hasTag = colon > named.lastIndexOf("/");
  const tag = hasTag ? named.slice(colon + 1) : null;
  if (tag !== null && !TAG.test(tag)) fail(`"${tag.slice(0, 150)}" is not a tag`);
  const { registry, repository } = splitDomain(hasTag ? named.slice(0, colon) : named);
  const port = DOMAIN.exec(registry)?.[1];
  if (!DOMAIN.test(registry) || (port !== undefined && Number(port) > 65_535))
    fail(`"${registry}" is not a registry host`);
  if (repository.length > 255) fail("the repository name is longer than 255 characters");
  for (const component of repository.split("/"))
    if (!COMPONENT.test(component)) fail(`"${component}" is not part of a repository name`);
  return { registry, repository, tag: tag ?? (digest === null ? "latest" : null), digest };
}

function splitDomain(name: string): { registry: string; repository: string } {
  const slash = name.indexOf("/");
  const first = slash < 0 ? "" : name.slice(0, slash);
  // The first component is a host only when it cannot be part of a path on Docker Hub.
  const isHost = /[.:]/.test(first) || first === "localhost" || first.toLowerCase() !== first;
  if (slash >= 0 && isHost && first !== "docker.io" && first !== "index.docker.io")
    return { registry: first, repository: name.slice(slash + 1) };
  const path = isHost ? name.slice(slash + 1) : name;
  return { registry: "docker.io", repository: path.includes("/") ? path : `library/${path}` };
}

/** The normalised text: "registry/repository:tag" or "registry/repository@sha256:…". */
export function formatReference(reference: Reference): string {
  const name = `${reference.registry}/${reference.repository}`;
  if (reference.digest !== null) return `${name}@${reference.digest}`;
  return `${name}:${reference.tag ?? "latest"}`;
}

/** As formatReference(parseReference(text)); null for what is no reference. */
export function normalReference(text: string): string | null {
  try {
    return formatReference(parseReference(text));
  } catch (error) {
    if (error instanceof LvError && error.reason === "IMAGE_REFERENCE_INVALID") return null;
    throw error;
  }
}

/** A registry as references name it: "ghcr.io", "127.0.0.1:5000", "docker.io". Throws BAD_REQUEST. */
export function parseRegistry(text: string): string {
  const host = text.replace(/^https?:\/\//, "").replace(/\/+$/, "");
  const port = DOMAIN.exec(host)?.[1];
  if (host.length > 255 || !DOMAIN.test(host) || (port !== undefined && Number(port) > 65_535))
    throw new LvError("BAD_REQUEST", `"${text.slice(0, 80)}" is not a registry host`);
  const isHub = host === "index.docker.io" || host === "registry-1.docker.io";
  return isHub ? "docker.io" : host;
}

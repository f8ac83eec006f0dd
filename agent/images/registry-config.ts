/** LEVERET_REGISTRY_MIRRORS and LEVERET_REGISTRY_INSECURE, and which address they lead to. */
import { isIPv4, isIPv6 } from "node:net";
import { LvError } from "../../proto/errors.ts";
import type { RegistryConfig, RegistryMirror } from "./types.ts";

const HOST = /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:(\d{1,5}|\*))?$/;
const MIRROR_URL = /^https?:\/\/(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:(\d{1,5}|\*))?\/?$/;

const entries = (text: string): string[] =>
  text
    .split(",")
    .map((entry) => entry.trim())
    .filter((entry) => entry !== "");

/** "host[:port]=url,…"; the port may be `*` on both sides. Throws CONFIG_INVALID. */
export function parseMirrors(text: string): RegistryMirror[] {
  return entries(text).map((entry) => {
    const equals = entry.indexOf("=");
    const host = entry.slice(0, Math.max(equals, 0));
    const url = entry.slice(equals + 1);
    const fits = HOST.test(host) && MIRROR_URL.test(url);
    if (!fits || host.endsWith(":*") !== /:\*\/?$/.test(url))
      throw new LvError(
        "CONFIG_INVALID",
        `LEVERET_REGISTRY_MIRRORS: "${entry}" is not host[:port]=http(s)://host[:port]`,
      );
    return { host, url: url.replace(/\/$/, "") };
  });
}

/** "host[:port],…". Throws CONFIG_INVALID. */
export function parseInsecure(text: string): string[] {
  return entries(text).map((entry) => {
    if (!HOST.test(entry) || entry.endsWith(":*"))
      throw new LvError(
        "CONFIG_INVALID",
        `LEVERET_REGISTRY_INSECURE: "${entry}" is not host or host:port`,
      );
    return entry;
  });
}

/** "http(s)://host[:port]" under which a registry is spoken to. */
export function registryOrigin(registry: string, config: RegistryConfig): string {
  const port = /:(\d+)$/.exec(registry)?.[1] ?? "";
  const name = port === "" ? registry : registry.slice(0, -port.length - 1);
  for (const mirror of config.mirrors) {
    if (mirror.host === registry) return mirror.url;
    if (mirror.host === `${name}:*`) return mirror.url.replace(/:\*$/, port ? `:${port}` : "");
  }
  const plain =
    isLoopback(name) || config.insecure.includes(registry) || config.insecure.includes(name);
  // Docker Hub's name in references is not the name of its API.
  const host = registry === "docker.io" ? "registry-1.docker.io" : registry;
  return `${plain ? "http" : "https"}://${host}`;
}

function isLoopback(name: string): boolean {
  const bare = name.replace(/^\[|\]$/g, "");
  if (isIPv4(bare)) return bare.startsWith("127.");
  if (isIPv6(bare)) return bare === "::1";
  return bare === "localhost" || bare.endsWith(".localhost");
}

/**
 * Registry authentication: the challenge of a 401 becomes an Authorization header
 * (distribution-spec, "Token Authentication"). Tokens are kept per registry and scope.
 */
import { z } from "zod";
import { LvError } from "../../proto/errors.ts";
import type { Login, RegistryConfig } from "./types.ts";

export type Challenge = { scheme: string; parameters: Map<string, string> };

/** Parses one WWW-Authenticate value, which may hold several challenges. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = [];
  const token = /\s*,?\s*([A-Za-z0-9_-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+)))?/gy;
  for (let match = token.exec(header); match !== null; match = token.exec(header)) {
    const [, name = "", quoted, bare] = match;
    const value = quoted === undefined ? bare : quoted.replace(/\\(.)/g, "$1");
    if (value === undefined) challenges.push({ scheme: name.toLowerCase(), parameters: new Map() });
    else challenges.at(-1)?.parameters.set(name.toLowerCase(), value);
  }
  return challenges;
}

const TokenBody = z.object({
  token: z.string().optional(),
  access_token: z.string().optional(),
  expires_in: z.number().optional(),
});

export type TokenReply = { status: number; text: string };
type Fetch = (url: string, headers: Record<string, string>) => Promise<TokenReply>;

/** Tokens of people who come once; the oldest goes first. */
const TOKENS_MAX = 1_024;

export class Authenticator {
  readonly #config: RegistryConfig;
  readonly #now: () => number;
  readonly #tokens = new Map<string, { header: string; expiresAt: number }>();
  constructor(config: RegistryConfig, now: () => number) {
    this.#config = config;
    this.#now = now;
  }

  /** The header kept for this registry, scope and credentials, when it has not run out. */
  known(registry: string, scope: string, login: Login | null): string | null {
    const kept = this.#tokens.get(keyOf(registry, scope, login));
    return kept !== undefined && kept.expiresAt > this.#now() ? kept.header : null;
  }

  /** Answers a 401; null = there is nothing more to offer. Forgets what was known before. */
  async answer(
    registry: string,
    scope: string,
    response: Response,
    fetchToken: Fetch,
    login: Login | null = null,
  ): Promise<string | null> {
    const key = keyOf(registry, scope, login);
    this.#tokens.delete(key);
    const challenges = parseChallenges(response.headers.get("www-authenticate") ?? "");
    const credentials = login ?? this.#config.credentials?.[registry];
    const basic =
      credentials === undefined
        ? null
        : `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString("base64")}`;
    const bearer = challenges.find(({ scheme }) => scheme === "bearer");
    if (bearer !== undefined)
      return await this.#bearer(key, registry, scope, bearer, basic, fetchToken, response.url);
    const wantsBasic = challenges.some(({ scheme }) => scheme === "basic");
    if (!wantsBasic || basic === null) return null;
    this.#keep(key, basic, Infinity);
    return basic;
  }

  #keep(key: string, header: string, expiresAt: number): void {
    this.#tokens.set(key, { header, expiresAt });
    const [oldest] = this.#tokens.keys();
    if (this.#tokens.size > TOKENS_MAX && oldest !== undefined) this.#tokens.delete(oldest);
  }

  async #bearer(
    key: string,
    registry: string,
    scope: string,
    challenge: Challenge,
    basic: string | null,
    fetchToken: Fetch,
    askedUrl: string,
  ): Promise<string | null> {
    const realm = URL.parse(challenge.parameters.get("realm") ?? "");
    if (realm === null || !/^https?:$/.test(realm.protocol))
      throw new LvError(
        "REGISTRY_UNAVAILABLE",
        `Registry "${registry}" names no usable token realm`,
      );
    const asked = URL.parse(askedUrl);
    if (asked?.protocol === "https:" && realm.protocol !== "https:")
      throw new LvError(
        "REGISTRY_UNAVAILABLE",
        `Registry "${registry}" names a token realm in plain HTTP`,
      );
    const service = challenge.parameters.get("service");
    if (service !== undefined) realm.searchParams.set("service", service);
    realm.searchParams.set("scope", challenge.parameters.get("scope") ?? scope);
    const trusted = asked !== null && mayGetCredentials(asked.hostname, realm.hostname);
    const headers: Record<string, string> =
      basic !== null && trusted ? { authorization: basic } : {};
    const response = await fetchToken(realm.href, headers);
    if (response.status === 401 || response.status === 403) return null;
    if (response.status < 200 || response.status > 299)
      throw new LvError(
        "REGISTRY_UNAVAILABLE",
        `The token server of registry "${registry}" answered ${response.status}`,
      );
    const body = TokenBody.safeParse(parseJson(response.text));
    const token = body.data?.token ?? body.data?.access_token;
    if (token === undefined || !/^[\x21-\x7e]+$/.test(token))
      throw new LvError("REGISTRY_UNAVAILABLE", `The token server of "${registry}" gave no token`);
    // 60 s is the default of the specification; ten are kept back for the way.
    const lifetimeMs = Math.max((body.data?.expires_in ?? 60) - 10, 5) * 1000;
    const header = `Bearer ${token}`;
    this.#keep(key, header, this.#now() + lifetimeMs);
    return header;
  }
}

/** What one has got with its credentials is not given to another. */
function keyOf(registry: string, scope: string, login: Login | null): string {
  const who = login === null ? "" : `${login.username}\0${login.password}`;
  return `${registry} ${scope} ${new Bun.CryptoHasher("sha256").update(who).digest("hex")}`;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // the caller says what is missing
  }
}

/** Credentials go to the registry's own host, a parent domain of it, or Docker Hub's token host. */
function mayGetCredentials(registryHost: string, realmHost: string): boolean {
  if (registryHost === realmHost) return true;
  if (registryHost === "registry-1.docker.io") return realmHost === "auth.docker.io";
  return realmHost.includes(".") && registryHost.endsWith(`.${realmHost}`);
}

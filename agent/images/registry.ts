/**
 * The registry's HTTP API (OCI distribution-spec), reading side only. Every request has a
 * deadline for its answer; bodies are bounded or handed over as a stream. Redirects are
 * followed by hand: Authorization never leaves the registry's own origin.
 */
import { Backoff } from "../../lib/backoff.ts";
import { abortReason, type Clock } from "../../lib/clock.ts";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { Authenticator, type TokenReply } from "./auth.ts";
import { MANIFEST_ACCEPT } from "./manifest.ts";
import { formatReference, isDigest, type Reference } from "../../proto/image-reference.ts";
import { registryOrigin } from "./registry-config.ts";
import type { Login, RegistryConfig } from "./types.ts";

const ATTEMPTS = 4;
const REDIRECTS = 5;
const RETRY_AFTER_MAX_MS = 20_000;

export type RawManifest = { bytes: Uint8Array; contentType: string; digest: string };

/** What is asked for, and by whom; null = with the host's own credentials, if it has any. */
export type Asked = Reference & { login?: Login | null };

export class RegistryClient {
  readonly #config: RegistryConfig;
  readonly #clock: Clock;
  readonly #auth: Authenticator;
  readonly #answerMs: number;
  readonly #idleMs: number;
  constructor(config: RegistryConfig, clock: Clock) {
    this.#config = config;
    this.#clock = clock;
    this.#answerMs = config.timeouts?.answerMs ?? LIMITS.registryRequestTimeoutMs;
    this.#idleMs = config.timeouts?.idleMs ?? LIMITS.registryIdleTimeoutMs;
    this.#auth = new Authenticator(config, () => clock.now());
  }

  /** The digest the registry says a tag has now; null when it does not say. Throws as manifest(). */
  async resolve(reference: Asked, tag: string, signal: AbortSignal): Promise<string | null> {
    const response = await this.#get(reference, `manifests/${tag}`, {
      method: "HEAD",
      headers: { accept: MANIFEST_ACCEPT },
      signal,
    });
    if (response.status === 404) throw this.#notFound(reference);
    const digest = response.ok ? response.headers.get("docker-content-digest") : null;
    // The header becomes a file name: anything but a digest is as good as silence.
    return digest !== null && isDigest(digest) ? digest : null;
  }

  /**
   * A manifest or index by tag or digest, its digest checked.
   * Throws IMAGE_NOT_FOUND, IMAGE_UNAUTHORIZED, IMAGE_CORRUPT, IMAGE_TOO_LARGE, REGISTRY_UNAVAILABLE.
   */
  async manifest(reference: Asked, target: string, signal: AbortSignal): Promise<RawManifest> {
    const response = await this.#get(reference, `manifests/${target}`, {
      method: "GET",
      headers: { accept: MANIFEST_ACCEPT },
      signal,
    });
    if (response.status === 404) throw this.#notFound(reference);
    this.#expectOk(reference, response);
    const bytes = await this.#body(response, LIMITS.manifestBytes, reference, signal);
    const digest = `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
    if (target.startsWith("sha256:") && target !== digest)
      throw new LvError(
        "IMAGE_CORRUPT",
        `Manifest ${target} of image "${formatReference(reference)}" is corrupt: its bytes are ${digest}`,
      );
    return { bytes, digest, contentType: response.headers.get("content-type") ?? "" };
  }

  /**
   * A blob's bytes from `from` on: 200 or 206 with an unread body, or 416.
   * Throws IMAGE_CORRUPT when the registry lacks it, else as manifest().
   */
  async blob(
    reference: Asked,
    digest: string,
    from: number,
    signal: AbortSignal,
  ): Promise<Response> {
    const headers: Record<string, string> = from > 0 ? { range: `bytes=${from}-` } : {};
    const response = await this.#get(reference, `blobs/${digest}`, {
      method: "GET",
      headers,
      signal,
    });
    if (response.status === 416) return response;
    if (response.status === 404)
      throw new LvError(
        "IMAGE_CORRUPT",
        `Image "${formatReference(reference)}" names blob ${digest}, which registry "${reference.registry}" does not have`,
      );
    this.#expectOk(reference, response);
    return response;
  }

  /** The body's chunks; throws a TimeoutError when the registry falls silent. */
  chunks(response: Response): AsyncGenerator<Uint8Array> {
    return readWithIdleLimit(response, this.#idleMs);
  }

  #notFound(reference: Reference): LvError {
    return new LvError(
      "IMAGE_NOT_FOUND",
      `Image "${formatReference(reference)}" was not found in registry "${reference.registry}"`,
    );
  }

  #expectOk(reference: Reference, response: Response): void {
    if (response.ok) return;
    if (response.status === 401 || response.status === 403)
      throw new LvError(
        "IMAGE_UNAUTHORIZED",
        `Registry "${reference.registry}" refuses "${formatReference(reference)}" (${response.status}): it does not exist or needs credentials`,
      );
    throw new LvError(
      "REGISTRY_UNAVAILABLE",
      `Registry "${reference.registry}" answered ${response.status} for "${formatReference(reference)}"`,
    );
  }

  async #get(reference: Asked, path: string, request: RequestOptions): Promise<Response> {
    const origin = registryOrigin(reference.registry, this.#config);
    const url = `${origin}/v2/${reference.repository}/${path}`;
    const backoff = new Backoff({ baseMs: 300, capMs: 3_000 });
    for (let attempt = 1; ; attempt += 1) {
      try {
        const response = await this.#authorised(reference, url, request);
        const busy = response.status === 429 || response.status >= 500;
        if (!busy || attempt === ATTEMPTS) return response;
        await response.body?.cancel();
        const after = retryAfterMs(response.headers.get("retry-after"), this.#clock.now());
        await this.#clock.sleep(after ?? backoff.next(), request.signal);
      } catch (error) {
        if (request.signal.aborted) throw abortReason(request.signal);
        if (error instanceof LvError) throw error;
        if (attempt === ATTEMPTS) throw unreachable(reference.registry, origin, error);
        await this.#clock.sleep(backoff.next(), request.signal);
      }
    }
  }

  async #authorised(reference: Asked, url: string, request: RequestOptions): Promise<Response> {
    const scope = `repository:${reference.repository}:pull`;
    const { registry } = reference;
    // Meant for this registry, or not used at all.
    const login = reference.login?.registry === registry ? reference.login : null;
    const response = await this.#follow(url, request, this.#auth.known(registry, scope, login));
    if (response.status !== 401) return response;
    await response.body?.cancel();
    const fetchToken = async (
      url: string,
      headers: Record<string, string>,
    ): Promise<TokenReply> => {
      const options: RequestOptions = { method: "GET", headers, signal: request.signal };
      const reply = await this.#once(url, options, null);
      return { status: reply.status, text: await this.#tokenText(reply) };
    };
    const authorization = await this.#auth.answer(registry, scope, response, fetchToken, login);
    return authorization === null ? response : await this.#follow(url, request, authorization);
  }

  /** "" for a body without bounds: it is no token. */
  async #tokenText(response: Response): Promise<string> {
    const parts: Uint8Array[] = [];
    let total = 0;
    for await (const chunk of this.chunks(response)) {
      total += chunk.length;
      if (total > LIMITS.registryTokenBytes) return "";
      parts.push(chunk);
    }
    return Buffer.concat(parts).toString("utf8");
  }

  async #follow(
    start: string,
    request: RequestOptions,
    authorization: string | null,
  ): Promise<Response> {
    let url = start;
    for (let hop = 0; hop <= REDIRECTS; hop += 1) {
      const own = new URL(url).origin === new URL(start).origin;
      const response = await this.#once(url, request, own ? authorization : null);
      const location = response.headers.get("location");
      if (response.status < 300 || response.status >= 400 || location === null) return response;
      await response.body?.cancel();
      const next = new URL(location, url);
      if (
        !/^https?:$/.test(next.protocol) ||
        (url.startsWith("https:") && next.protocol !== "https:")
      )
        throw new LvError(
          "REGISTRY_UNAVAILABLE",
          `Refusing the redirect from ${url} to ${next.origin}`,
        );
      url = next.href;
    }
    throw new LvError("REGISTRY_UNAVAILABLE", `${start} redirects more than ${REDIRECTS} times`);
  }

  /** One exchange; the deadline covers the answer's head, the caller watches the body. */
  async #once(
    url: string,
    request: RequestOptions,
    authorization: string | null,
  ): Promise<Response> {
    const late = new AbortController();
    const timer = setTimeout(
      () => late.abort(new DOMException("no answer in time", "TimeoutError")),
      this.#answerMs,
    );
    try {
      return await fetch(url, {
        method: request.method,
        // identity + decompress: false: the bytes are hashed as they were stored.
        headers: {
          ...request.headers,
          "accept-encoding": "identity",
          "user-agent": "leveret",
          ...(authorization === null ? {} : { authorization }),
        },
        redirect: "manual",
        decompress: false,
        signal: AbortSignal.any([request.signal, late.signal]),
      });
    } finally {
      clearTimeout(timer);
    }
  }

  async #body(
    response: Response,
    limitBytes: number,
    reference: Reference,
    signal: AbortSignal,
  ): Promise<Uint8Array> {
    const chunks: Uint8Array[] = [];
    let total = 0;
    try {
      for await (const chunk of this.chunks(response)) {
        total += chunk.length;
        if (total > limitBytes) break;
        chunks.push(chunk);
      }
    } catch (error) {
      if (signal.aborted) throw abortReason(signal);
      throw unreachable(reference.registry, new URL(response.url).origin, error);
    }
    if (total > limitBytes)
      throw new LvError(
        "IMAGE_TOO_LARGE",
        `A manifest of "${formatReference(reference)}" is larger than ${limitBytes} bytes`,
      );
    return Buffer.concat(chunks);
  }
}

type RequestOptions = {
  method: "GET" | "HEAD";
  headers: Record<string, string>;
  signal: AbortSignal;
};

/** The body's chunks; throws a TimeoutError when none comes for `idleMs`. Cancels the body when left early. */
async function* readWithIdleLimit(response: Response, idleMs: number): AsyncGenerator<Uint8Array> {
  if (response.body === null) return;
  const reader = response.body.getReader();
  let timer: Timer | undefined;
  const idle = Promise.withResolvers<never>();
  idle.promise.catch(() => undefined); // raced below; alone it must not count as unhandled
  try {
    for (;;) {
      timer = setTimeout(
        () => idle.reject(new DOMException(`no data for ${idleMs} ms`, "TimeoutError")),
        idleMs,
      );
      const { done, value } = await Promise.race([reader.read(), idle.promise]);
      clearTimeout(timer);
      if (done) return;
      yield value;
    }
  } finally {
    clearTimeout(timer);
    // After a broken connection there is nothing left to cancel.
    await reader.cancel().catch(() => undefined);
  }
}

function unreachable(registry: string, origin: string, cause: unknown): LvError {
  const why =
    cause instanceof Error
      ? "code" in cause && typeof cause.code === "string"
        ? cause.code
        : cause.message
      : String(cause);
  return new LvError(
    "REGISTRY_UNAVAILABLE",
    `Registry "${registry}" cannot be reached at ${origin}: ${why}`,
    { cause },
  );
}

/** Retry-After in seconds or as a date (RFC 9110 §10.2.3), bounded; null when absent or odd. */
export function retryAfterMs(header: string | null, nowMs: number): number | null {
  if (header === null) return null;
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - nowMs;
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 0), RETRY_AFTER_MAX_MS) : null;
}

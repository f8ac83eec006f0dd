/**
 * The REST API as functions, typed by proto/rest.ts. Retries what the error
 * table calls retryable and connections that fail, with full-jitter backoff: for
 * a short time until the control plane has answered once (a wrong address should
 * fail quickly), for long afterwards (it may be restarting).
 */
import { z } from "zod";
import { Backoff } from "../lib/backoff.ts";
import { abortReason, systemClock, type Clock } from "../lib/clock.ts";
import { LvError } from "../proto/errors.ts";
import {
  CreatedJoinToken,
  Host,
  LogLine,
  Machine,
  MachineMetrics,
  RevokedHost,
  type CreateMachineRequest,
} from "../proto/rest.ts";
import { tokenFor } from "./credentials.ts";
import { errorFrom, parsed, unreadable } from "./answers.ts";
import { serverEvents, type ServerEvent } from "./sse.ts";

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;
export type ClientOptions = {
  url: string;
  token?: string | null;
  /** For a fleet token: which project's machines are meant; its own default otherwise. */
  project?: string | null;
  /** Of a lease that the caller has. */
  nonce?: string | null;
  fetch?: Fetch;
  clock?: Clock;
  firstPatienceMs?: number;
  patienceMs?: number;
};

type CallOptions = {
  body?: unknown;
  key?: string;
  signal?: AbortSignal | undefined;
  headers?: Record<string, string>;
};

const REQUEST_TIMEOUT_MS = 30_000;
const PAGE = 200;
/** Errors that pass by themselves soon; a host that is away may stay away, so that is told at once. */
const RETRIED = new Set(["LINK_LOST", "DATABASE_UNAVAILABLE", "SHUTTING_DOWN"]);

/** LEVERET_URL. Throws CONFIG_INVALID when it is no http(s) address. */
export function controlPlaneUrl(env: NodeJS.ProcessEnv = process.env): string {
  const url = env["LEVERET_URL"] ?? "";
  if (url === "") return "http://127.0.0.1:8080";
  if (!/^https?:\/\/./.test(url))
    throw new LvError("CONFIG_INVALID", `LEVERET_URL "${url}" is not an http:// address`);
  return url.replace(/\/+$/, "");
}

export class Client {
  readonly url: string;
  readonly #identity: Record<string, string>;
  readonly #fetch: Fetch;
  readonly #clock: Clock;
  readonly #firstPatienceMs: number;
  readonly #patienceMs: number;
  #answered = false;

  constructor(options: ClientOptions) {
    this.url = options.url;
    this.#identity = {
      ...(options.token == null ? {} : { authorization: `Bearer ${options.token}` }),
      ...(options.project == null ? {} : { "leveret-project": options.project }),
      ...(options.nonce == null ? {} : { "leveret-machine-lease-nonce": options.nonce }),
    };
    this.#fetch = options.fetch ?? ((url, init) => fetch(url, init));
    this.#clock = options.clock ?? systemClock;
    this.#firstPatienceMs = options.firstPatienceMs ?? 3_000;
    this.#patienceMs = options.patienceMs ?? 60_000;
  }

  static fromEnvironment(): Client {
    const url = controlPlaneUrl();
    const set = (name: string): string | null => process.env[name] || null;
    return new Client({
      url,
      token: tokenFor(url),
      project: set("LEVERET_PROJECT"),
      nonce: set("LEVERET_LEASE_NONCE"),
    });
  }

  async createMachine(request: CreateMachineRequest, signal?: AbortSignal): Promise<Machine> {
    const key = crypto.randomUUID();
    return Machine.parse(await this.#json("POST", "/v1/machines", { body: request, key, signal }));
  }

  /** By id, name or unique prefix of an id. */
  async machine(ref: string, signal?: AbortSignal): Promise<Machine> {
    return Machine.parse(await this.#json("GET", machinePath(ref), { signal }));
  }

  /** Throws STATE_CONFLICT for a machine that does not run. */
  async metrics(ref: string): Promise<MachineMetrics> {
    return MachineMetrics.parse(await this.#json("GET", `${machinePath(ref)}/metrics`, {}));
  }

  machines(signal?: AbortSignal): Promise<Machine[]> {
    return this.pages("/v1/machines", Machine, signal);
  }

  hosts(signal?: AbortSignal): Promise<Host[]> {
    return this.pages("/v1/hosts", Host, signal);
  }

  /** For one host to join with; `seconds` until it expires. */
  async joinToken(seconds?: number, signal?: AbortSignal): Promise<CreatedJoinToken> {
    const body = seconds === undefined ? {} : { expires_in: seconds };
    return CreatedJoinToken.parse(await this.#json("POST", "/v1/hosts/tokens", { body, signal }));
  }

  /** By id or name. Its certificate is taken away. */
  async revokeHost(ref: string): Promise<RevokedHost> {
    const path = `/v1/hosts/${encodeURIComponent(ref)}/revoke`;
    return RevokedHost.parse(await this.#json("POST", path, {}));
  }

  async start(ref: string): Promise<Machine> {
    return Machine.parse(
      await this.#json("POST", `${machinePath(ref)}/start`, { key: crypto.randomUUID() }),
    );
  }

  /** `timeout` in seconds until the machine is killed; undefined = as it was created. */
  async stop(ref: string, timeout?: number): Promise<Machine> {
    return Machine.parse(
      await this.#json("POST", `${machinePath(ref)}/stop`, {
        body: timeout === undefined ? {} : { timeout },
        key: crypto.randomUUID(),
      }),
    );
  }

  async remove(ref: string): Promise<void> {
    await this.#json("DELETE", machinePath(ref), {});
  }

  /** Returns when the machine is in one of the states, or null when `seconds` passed. */
  async wait(
    ref: string,
    states: string[],
    seconds: number,
    signal?: AbortSignal,
  ): Promise<Machine | null> {
    const query = new URLSearchParams({ state: states.join(","), timeout: String(seconds) });
    const path = `${machinePath(ref)}/wait?${query.toString()}`;
    try {
      return Machine.parse(await this.#json("GET", path, { signal }));
    } catch (error) {
      if (error instanceof LvError && error.reason === "WAIT_TIMEOUT") return null;
      throw error;
    }
  }

  /**
   * The machine's output, in order and each line once; survives a restart of the
   * control plane by asking again from the last sequence. `follow` ends when the
   * machine's run has ended and everything was sent.
   */
  async *logs(ref: string, follow: boolean, signal?: AbortSignal): AsyncGenerator<LogLine> {
    let last: string | null = null;
    let failingSince: number | null = null;
    const backoff = new Backoff({ baseMs: 200, capMs: 3_000 });
    for (;;) {
      try {
        const path = `${machinePath(ref)}/logs?follow=${String(follow)}`;
        for await (const event of this.stream(path, last, signal)) {
          failingSince = null;
          backoff.reset();
          if (event.event === "end") return;
          if (event.event === "error") throw errorFrom(500, event.data);
          if (event.event !== "log") continue;
          const line = LogLine.parse(JSON.parse(event.data));
          last = event.id ?? String(line.sequence);
          yield line;
        }
      } catch (error) {
        if (signal?.aborted === true) throw abortReason(signal);
        if (error instanceof LvError && !error.retryable) throw error;
        if (error instanceof z.ZodError) throw unreadable("log line", error);
      }
      // Cut off before its end: a stream without "end" is never complete.
      failingSince ??= this.#clock.now();
      if (this.#clock.now() - failingSince > this.#patienceMs)
        throw new LvError(
          "LINK_LOST",
          `The log stream of ${ref} was cut off and did not come back`,
        );
      await this.#clock.sleep(backoff.next(), signal);
    }
  }

  /** Server-sent events of a route, once; `last` is the id of the last one that is known. */
  async *stream(
    path: string,
    last: string | null,
    signal?: AbortSignal,
  ): AsyncGenerator<ServerEvent> {
    const headers = {
      accept: "text/event-stream",
      ...(last === null ? {} : { "last-event-id": last }),
    };
    const response = await this.#response("GET", path, { signal, headers }, null);
    if (response.body !== null) yield* serverEvents(response.body);
  }

  /** Any route, parsed by the shape of its answer. */
  async call<T>(
    method: string,
    path: string,
    shape: z.ZodType<T>,
    options: { body?: unknown; headers?: Record<string, string> } = {},
  ): Promise<T> {
    return parsed(path, shape, await this.#json(method, path, options));
  }

  /**
   * Sends what cannot be sent twice, as it comes; null = without a bound on the time. Never
   * repeated: the bytes are gone.
   */
  async upload<T>(path: string, shape: z.ZodType<T>, body: ReadableStream<Uint8Array>): Promise<T> {
    const response = await this.#fetch(this.url + path, {
      method: "POST",
      headers: { ...this.#identity, "content-type": "application/octet-stream" },
      body,
      // Bun's own bound would end an upload that takes longer than five minutes.
      timeout: false,
    } as RequestInit).catch((cause: unknown) => {
      throw new LvError("LINK_LOST", `The connection to ${this.url} broke during the upload`, {
        cause,
      });
    });
    if (!response.ok) throw errorFrom(response.status, await response.text());
    return parsed(path, shape, await response.json());
  }

  /** A whole list, page by page. */
  async pages<T>(path: string, item: z.ZodType<T>, signal?: AbortSignal): Promise<T[]> {
    const all: T[] = [];
    for (let cursor: string | null = ""; cursor !== null;) {
      const query: string = cursor === "" ? "" : `&cursor=${encodeURIComponent(cursor)}`;
      const joint = path.includes("?") ? "&" : "?";
      const url = `${path}${joint}limit=${PAGE}${query}`;
      const response = await this.#response("GET", url, { signal }, REQUEST_TIMEOUT_MS);
      all.push(...parsed(path, z.array(item), await response.json()));
      cursor = response.headers.get("leveret-next-cursor");
    }
    return all;
  }

  async #json(method: string, path: string, options: CallOptions): Promise<unknown> {
    const response = await this.#response(method, path, options, requestTimeout(path));
    if (response.status === 204) return null;
    return response.json();
  }

  async #response(
    method: string,
    path: string,
    options: CallOptions,
    timeoutMs: number | null,
  ): Promise<Response> {
    const began = this.#clock.now();
    const backoff = new Backoff({ baseMs: 100, capMs: 2_000 });
    for (;;) {
      const error = await this.#attempt(method, path, options, timeoutMs);
      if (error instanceof Response) return error;
      if (options.signal?.aborted === true) throw abortReason(options.signal);
      const patience = this.#answered ? this.#patienceMs : this.#firstPatienceMs;
      if (!RETRIED.has(error.reason) || this.#clock.now() - began > patience) throw error;
      await this.#clock.sleep(backoff.next(), options.signal);
    }
  }

  /** One try: the response when it is a success, the error otherwise. */
  async #attempt(
    method: string,
    path: string,
    options: CallOptions,
    timeoutMs: number | null,
  ): Promise<Response | LvError> {
    const signals = [
      options.signal,
      timeoutMs === null ? undefined : AbortSignal.timeout(timeoutMs),
    ];
    const init: RequestInit = {
      method,
      headers: {
        ...(options.body === undefined ? {} : { "content-type": "application/json" }),
        ...(options.key === undefined ? {} : { "idempotency-key": options.key }),
        ...this.#identity,
        ...options.headers,
      },
      signal: AbortSignal.any(signals.filter((signal) => signal !== undefined)),
      ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
    };
    let response: Response;
    try {
      response = await this.#fetch(this.url + path, init);
    } catch (cause) {
      return new LvError(
        "LINK_LOST",
        `Cannot reach the control plane at ${this.url}: is it running? LEVERET_URL names another, \`lev quickstart\` starts one`,
        { cause },
      );
    }
    this.#answered = true;
    if (response.ok) return response;
    return errorFrom(response.status, await response.text());
  }
}

export function machinePath(ref: string): string {
  return `/v1/machines/${encodeURIComponent(ref)}`;
}

/** A wait may last as long as it was asked to; everything else has one bound. */
function requestTimeout(path: string): number {
  const seconds = /[?&]timeout=(\d+)/.exec(path)?.[1];
  return REQUEST_TIMEOUT_MS + (seconds === undefined ? 0 : Number(seconds) * 1000);
}

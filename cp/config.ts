/** Environment → typed configuration. Every failure names the variable and the value. */
import { z } from "zod";
import { LvError } from "../proto/errors.ts";

const port = z.coerce.number().int().min(0).max(65_535);

const Environment = z.object({
  LEVERET_HTTP_HOST: z.string().min(1).default("127.0.0.1"),
  HTTP_PORT: port.default(8080),
  LEVERET_GRPC_HOST: z.string().min(1).default("127.0.0.1"),
  GRPC_PORT: port.default(8090),
  LEVERET_INSECURE_LINK: z.enum(["0", "1"]).default("0"),
  DATABASE_URL: z
    .string()
    .regex(/^postgres(ql)?:\/\/./, "expected postgres://…")
    .optional(),
  LEVERET_CP_DIR: z.string().min(1).default("/var/lib/leveret/cp"),
  LEVERET_LOG_LEVEL: z
    .enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"])
    .default("info"),
});

export type Config = {
  httpHost: string;
  /** 0 = any free port. */
  httpPort: number;
  grpcHost: string;
  grpcPort: number;
  /** Plain h2c on the link. */
  insecureLink: boolean;
  /** null = run the embedded PostgreSQL in `dataDir`. */
  databaseUrl: string | null;
  dataDir: string;
  logLevel: string;
};

/** Throws CONFIG_INVALID; one line per wrong variable. */
export function loadConfig(env: Record<string, string | undefined>): Config {
  // Set to nothing is not set.
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ""));
  const parsed = Environment.safeParse(given);
  if (!parsed.success) {
    const lines = parsed.error.issues.map((issue) => {
      const key = String(issue.path[0]);
      // A database URL carries a password: its value is never repeated.
      const value = key === "DATABASE_URL" ? "" : `="${env[key] ?? ""}"`;
      return `${key}${value}: ${issue.message}`;
    });
    throw new LvError("CONFIG_INVALID", lines.join("; "));
  }
  const raw = parsed.data;
  return {
    httpHost: raw.LEVERET_HTTP_HOST,
    httpPort: raw.HTTP_PORT,
    grpcHost: raw.LEVERET_GRPC_HOST,
    grpcPort: raw.GRPC_PORT,
    insecureLink: raw.LEVERET_INSECURE_LINK === "1",
    databaseUrl: raw.DATABASE_URL ?? null,
    dataDir: raw.LEVERET_CP_DIR,
    logLevel: raw.LEVERET_LOG_LEVEL,
  };
}

/** True for an address that only this machine can reach. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}

/** Throws CONFIG_INVALID when the link would be open to others without identity. */
export function checkLink(config: Config): void {
  if (!config.insecureLink)
    throw new LvError(
      "CONFIG_INVALID",
      "mTLS is not available in this version: set LEVERET_INSECURE_LINK=1 to serve the link in plain HTTP/2 on loopback",
    );
  if (!isLoopback(config.grpcHost))
    throw new LvError(
      "CONFIG_INVALID",
      `LEVERET_GRPC_HOST="${config.grpcHost}": with LEVERET_INSECURE_LINK=1 the link is served on loopback only`,
    );
}

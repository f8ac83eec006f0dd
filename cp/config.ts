/** Environment → typed configuration. Every failure names the variable and the value. */
import { z } from "zod";
import { LvError } from "../proto/errors.ts";

const LOST_AFTER_S = 3_600;

const port = z.coerce.number().int().min(0).max(65_535);

const Environment = z.object({
  LEVERET_HTTP_HOST: z.string().min(1).default("127.0.0.1"),
  HTTP_PORT: port.default(8080),
  LEVERET_GRPC_HOST: z.string().min(1).default("127.0.0.1"),
  GRPC_PORT: port.default(8090),
  LEVERET_INSECURE_LINK: z.enum(["0", "1"]).default("0"),
  LEVERET_GRPC_NAMES: z.string().default(""),
  LEVERET_SECRET_KEY: z
    .string()
    .regex(/^[0-9a-f]{64}$/, "expected 64 hexadecimal digits")
    .optional(),
  DATABASE_URL: z
    .string()
    .regex(/^postgres(ql)?:\/\/./, "expected postgres://…")
    .optional(),
  LEVERET_LISTEN_URL: z
    .string()
    .regex(/^postgres(ql)?:\/\/./, "expected postgres://…")
    .optional(),
  LEVERET_REPLICA_URL: z
    .string()
    .regex(/^https?:\/\/[^\s/]+$/, "expected http://host:port")
    .optional(),
  LEVERET_BOOTSTRAP_TOKEN: z
    .string()
    .regex(/^lvt_[0-9a-hjkmnp-tv-z]{32}$/, "expected lvt_ and 32 characters of base32")
    .optional(),
  LEVERET_CP_DIR: z.string().min(1).default("/var/lib/leveret/cp"),
  LEVERET_LOST_AFTER: z.coerce.number().int().min(1).max(31_536_000).default(LOST_AFTER_S),
  LEVERET_LOG_LEVEL: z
    .enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"])
    .default("info"),
});

const SECRET = [
  "DATABASE_URL",
  "LEVERET_LISTEN_URL",
  "LEVERET_BOOTSTRAP_TOKEN",
  "LEVERET_SECRET_KEY",
];

export type Config = {
  httpHost: string;
  /** 0 = any free port. */
  httpPort: number;
  grpcHost: string;
  grpcPort: number;
  /** Plain h2c on the link. */
  insecureLink: boolean;
  /** Further DNS names and addresses of the hub's certificate. */
  grpcNames: string[];
  /** What secrets in the database are sealed with; null = the file in `dataDir`. */
  secretKey: string | null;
  /** null = run the embedded PostgreSQL in `dataDir`. */
  databaseUrl: string | null;
  /** A PostgreSQL session that LISTEN outlasts a transaction on; null = databaseUrl. */
  listenUrl: string | null;
  /** Where other replicas reach our HTTP listener; null = where it listens. */
  replicaUrl: string | null;
  dataDir: string;
  /** The first admin token, brought along; null = one is made and shown once. */
  bootstrapToken: string | null;
  /** Seconds until a host that is away is `lost`. */
  lostAfterS: number;
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
      // Secrets are never repeated; a database URL carries a password.
      const value = SECRET.includes(key) ? "" : `="${env[key] ?? ""}"`;
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
    grpcNames: raw.LEVERET_GRPC_NAMES.split(",")
      .map((name) => name.trim())
      .filter((name) => name !== ""),
    secretKey: raw.LEVERET_SECRET_KEY ?? null,
    databaseUrl: raw.DATABASE_URL ?? null,
    listenUrl: raw.LEVERET_LISTEN_URL ?? null,
    replicaUrl: raw.LEVERET_REPLICA_URL ?? null,
    dataDir: raw.LEVERET_CP_DIR,
    bootstrapToken: raw.LEVERET_BOOTSTRAP_TOKEN ?? null,
    lostAfterS: raw.LEVERET_LOST_AFTER,
    logLevel: raw.LEVERET_LOG_LEVEL,
  };
}

/** True for an address that only this machine can reach. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}

/** Throws CONFIG_INVALID when the link would be open to others without identity. */
export function checkLink(config: Config): void {
  if (config.insecureLink && !isLoopback(config.grpcHost))
    throw new LvError(
      "CONFIG_INVALID",
      `LEVERET_GRPC_HOST="${config.grpcHost}": with LEVERET_INSECURE_LINK=1 the link is served on loopback only`,
    );
}

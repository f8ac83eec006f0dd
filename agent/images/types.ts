/** What the image pipeline takes and gives. `ImageStore` (builder.ts) implements `Images`. */

/** The parts of an OCI image configuration that a machine needs (OCI image-spec, config.md). */
export type ImageConfig = {
  /** null = the image sets none. */
  entrypoint: string[] | null;
  cmd: string[] | null;
  /** "KEY=value" in the image's order. */
  env: string[];
  /** As the image says it: "", "user", "uid", "user:group", "uid:gid". */
  user: string;
  /** "" = the image sets none; the guest then uses "/". */
  workingDir: string;
  /** "" = the image sets none; otherwise "SIGTERM", "TERM" or a number. */
  stopSignal: string;
};

export type BuiltImage = {
  /** "sha256:…" of the manifest for linux/amd64 (not of the index above it). */
  digest: string;
  /** Complete, verified, read-only and never changed under this name. */
  squashfsPath: string;
  /** Size of the squashfs in bytes. */
  sizeBytes: number;
  config: ImageConfig;
};

export type ImagePhase = "queued" | "resolving" | "pulling" | "converting" | "ready";

export type ImageProgress = {
  phase: ImagePhase;
  /** Of the compressed layers: bytes here so far; converting: bytes worked through so far. */
  bytesDone: number;
  /** 0 while it is not known. */
  bytesTotal: number;
  /** Layers of the image, 0 while it is not known. */
  layers: number;
  /** Layers that are here; converting: that are in the image. */
  layersDone?: number;
  /** Builds that come first, and this one. */
  queuePosition?: number;
  /** Over the last seconds; only while pulling and converting. */
  bytesPerSecond?: number;
};

/** Credentials for one registry, as references name it. */
export type Login = { registry: string; username: string; password: string };

export type EnsureOptions = {
  /** Instead of the host's own credentials; never written to disk. */
  login?: Login | null;
  /** Ends this caller's wait; the build itself goes on. */
  signal?: AbortSignal;
  /** Called on the main thread, at most a few times a second, never after `ensure` is settled. */
  onProgress?: (progress: ImageProgress) => void;
};

export type StoredImage = {
  digest: string;
  sizeBytes: number;
  lastUsedMs: number;
  pinned: boolean;
};

/** With the references it was pulled by, newest last. */
export type NamedImage = StoredImage & { references: string[] };

export type Removed = { digests: string[]; freedBytes: number };

export type LoadedImage = { reference: string; digest: string; sizeBytes: number };

/** One door for the agent's runtime, so that tests can put a fake behind it. */
export interface Images {
  /**
   * Resolves the reference and gives the squashfs of its linux/amd64 image, built when it is
   * not there yet. A reference with a digest that was built before needs no registry.
   *
   * Throws LvError: IMAGE_REFERENCE_INVALID, IMAGE_NOT_FOUND, IMAGE_PLATFORM_MISSING,
   * IMAGE_UNAUTHORIZED, IMAGE_CORRUPT, IMAGE_UNSUPPORTED, IMAGE_TOO_LARGE,
   * REGISTRY_UNAVAILABLE, DISK_FULL, TOOL_MISSING, TIMEOUT, SHUTTING_DOWN; the reason of
   * `signal` when that one aborts.
   */
  ensure(reference: string, options?: EnsureOptions): Promise<BuiltImage>;
  /** Finished images, the one used last first. */
  list(): Promise<NamedImage[]>;
  /** Grows whenever what `list` says may have changed. */
  readonly changes: number;
  /** A pinned image is never removed. Throws IMAGE_NOT_FOUND. */
  pin(digest: string, pinned: boolean): Promise<void>;
  /** Throws IMAGE_NOT_FOUND, IMAGE_IN_USE. */
  remove(digest: string): Promise<Removed>;
  /** Removes blobs and images that nobody needs; without `all` only what was unused for a day. */
  prune(all: boolean): Promise<Removed>;
  /** An image in an archive (load.ts), built; the file is the caller's. */
  load(path: string, tag: string | null): Promise<LoadedImage>;
  /** Ends all builds, their children and the worker; waiters get SHUTTING_DOWN. Safe twice. */
  close(): Promise<void>;
}

/** A registry reached at another address: requests for `host` go to `url`. */
export type RegistryMirror = {
  /** "host", "host:port" or "host:*". */
  host: string;
  /** "http://host:port"; the port is `*` when `host` ends in `:*` and means the same port. */
  url: string;
};

export type RegistryConfig = {
  mirrors: RegistryMirror[];
  /** "host" or "host:port" spoken to in plain HTTP; loopback is always among them. */
  insecure: string[];
  /** Basic credentials by registry host as the reference names it. */
  credentials?: Record<string, { username: string; password: string }>;
  /** How long a registry may keep silent; LIMITS when left out. */
  timeouts?: { answerMs: number; idleMs: number; resolveMs: number };
};

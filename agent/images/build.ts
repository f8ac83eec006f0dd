/**
 * From a reference to a finished image; runs in the worker (worker.ts) but knows nothing of it.
 *
 *   resolve: tag → manifest of linux/amd64        per call
 *   build:   pull ─ layer by layer ─ flatten and write squashfs → cache
 *                                                 one per manifest digest, two at a time
 *
 * A build has its own deadline and the builder's lifetime; callers only watch it. Callers that
 * ask for the same digest under several names share one build.
 */
import { join } from "node:path";
import type { Clock } from "../../lib/clock.ts";
import { LIMITS } from "../../lib/limits.ts";
import { LvError, type Reason } from "../../proto/errors.ts";
import { BlobStore } from "./blobs.ts";
import { ImageCache } from "./cache.ts";
import { Collector, type Collected, type DiskRoom } from "./collector.ts";
import type { BlobSource } from "./download.ts";
import { removeAbandoned } from "./durable.ts";
import { LayeredWriter } from "./emit.ts";
import { Flattener } from "./flatten.ts";
import { Garbage } from "./garbage.ts";
import { loadImage } from "./load.ts";
import { LoadedImages } from "./loaded.ts";
import { parseConfig, type CheckedConfig, type Descriptor } from "./manifest.ts";
import { ImageNames } from "./names.ts";
import { PullProgress, type Report } from "./pull-progress.ts";
import { formatReference, parseReference } from "../../proto/image-reference.ts";
import { RegistryClient } from "./registry.ts";
import { type Resolved, Resolver } from "./resolve.ts";
import { NoRoomError, Room } from "./room.ts";
import { Slots } from "./slots.ts";
import { ImageStock } from "./stock.ts";
import type { BuiltImage, ImageProgress, LoadedImage, Login, RegistryConfig } from "./types.ts";

const PARALLEL_BLOBS = 3;
/** Each keeps a core busy and holds its tree and its buffers; later ones wait in order. */
const PARALLEL_BUILDS = 2;
/** Ends of a build after which its partial downloads stay; after others they only take room. */
const RESUMABLE: readonly Reason[] = ["REGISTRY_UNAVAILABLE", "TIMEOUT", "SHUTTING_DOWN"];

const USE_TOLD_MS = 60_000;

type Watch = (progress: ImageProgress) => void;
type Note = (message: string, fields: Record<string, unknown>) => void;
/** What ends an attempt at a build, and the blobs it fetched itself. */
type Ends = { signal: AbortSignal; failed: AbortController; fresh: Set<string> };
type Flight = {
  promise: Promise<BuiltImage>;
  watchers: Set<Watch>;
  blobs: ReadonlySet<string>;
  last: ImageProgress;
};

export class ImageBuilder {
  readonly #dir: string;
  readonly #blobs: BlobStore;
  readonly #cache: ImageCache;
  readonly #registry: RegistryClient;
  readonly #resolver: Resolver;
  readonly #note: Note;
  readonly #garbage = new Garbage();
  readonly #lifetime = new AbortController();
  readonly #flights = new Map<string, Flight>();
  readonly #slots = new Slots(PARALLEL_BUILDS);
  readonly #collector: Collector;
  readonly #room: Room;
  readonly #stock: ImageStock;
  readonly #names: ImageNames;
  readonly #loaded: LoadedImages;
  readonly #clock: Clock;
  /** Digests that are being looked for, so that the collector leaves them alone. */
  readonly #asked = new Map<string, number>();
  /** Settles when nothing is being removed; builds that come meanwhile wait for it. */
  #removal: Promise<unknown> = Promise.resolve();
  #roots: ReadonlySet<string> = new Set();
  #ready: Promise<void> | null = null;
  #useToldMs = 0;
  /** What is called when the list of images may have changed. */
  onChange: () => void = () => undefined;
  /** `room` stands for the disk's own figures in tests. */
  constructor(
    dir: string,
    config: RegistryConfig,
    clock: Clock,
    note: Note,
    room?: () => Promise<DiskRoom>,
  ) {
    this.#dir = dir;
    this.#blobs = new BlobStore(join(dir, "blobs"), clock);
    this.#cache = new ImageCache(dir);
    this.#registry = new RegistryClient(config, clock);
    this.#note = note;
    this.#clock = clock;
    this.#names = new ImageNames(dir);
    this.#loaded = new LoadedImages(join(dir, "blobs"), clock);
    this.#collector = new Collector({
      dir,
      clock,
      cache: this.#cache,
      blobs: this.#blobs,
      isBusy: (digest) => this.#asked.has(digest),
      isNeeded: (digest) => [...this.#flights.values()].some(({ blobs }) => blobs.has(digest)),
      kept: () => this.#loaded.kept(),
      ...(room === undefined ? {} : { room }),
    });
    this.#stock = new ImageStock({
      cache: this.#cache,
      collector: this.#collector,
      names: this.#names,
      loaded: this.#loaded,
      removing: (remove) => this.#removing(remove),
      isBusy: (digest) => this.#asked.has(digest),
      roots: () => this.#roots,
      onChange: () => this.onChange(),
      note,
    });
    this.#room = new Room({
      usable: () => this.#collector.usable(),
      free: async (bytes, image) => {
        this.#note("a pull needs room", { image, bytes });
        const done = await this.#removing(() => this.#collector.free(bytes, this.#roots));
        await this.#stock.collected(done);
      },
    });
    this.#resolver = new Resolver({
      registry: this.#registry,
      blobs: this.#blobs,
      lifetime: this.#lifetime.signal,
      timeoutMs: config.timeouts?.resolveMs ?? LIMITS.imageResolveTimeoutMs,
    });
  }

  /** As Images.ensure, but without a way to stop waiting. */
  async ensure(text: string, watch: Watch, login: Login | null = null): Promise<BuiltImage> {
    await this.#open();
    const reference = { ...parseReference(text), login };
    watch({ phase: "resolving", bytesDone: 0, bytesTotal: 0, layers: 0 });
    const resolved = await this.#resolver.resolve(reference);
    const { digest } = resolved;
    this.#asked.set(digest, (this.#asked.get(digest) ?? 0) + 1);
    try {
      const built = await this.#give(resolved, watch);
      await this.#cache.touch(digest, this.#clock.now());
      this.#tellUse(await this.#names.set(formatReference(reference), digest));
      return built;
    } finally {
      const others = (this.#asked.get(digest) ?? 1) - 1;
      if (others > 0) this.#asked.set(digest, others);
      else this.#asked.delete(digest);
    }
  }

  /** Each use is a change of the list, but not worth telling the control plane one by one. */
  #tellUse(isNews: boolean): void {
    const now = this.#clock.now();
    if (!isNews && now - this.#useToldMs < USE_TOLD_MS) return;
    this.#useToldMs = now;
    this.onChange();
  }

  /** Manifests that machines need, whatever their state; what is not among them may go. */
  setRoots(digests: Iterable<string>): void {
    this.#roots = new Set(digests);
  }

  /** Keeps the disk between its watermarks. */
  async collect(): Promise<Collected> {
    await this.#open();
    const done = await this.#removing(() => this.#collector.collect(this.#roots));
    await this.#stock.collected(done);
    return done;
  }

  /** What there is, to look at and to remove. */
  async stock(): Promise<ImageStock> {
    await this.#open();
    return this.#stock;
  }

  /** Brings the image of an archive in and builds it. */
  async load(path: string, tag: string | null): Promise<LoadedImage> {
    await this.#open();
    const { reference } = await loadImage(path, join(this.#dir, "blobs"), this.#clock, tag);
    const { digest, sizeBytes } = await this.ensure(reference, () => undefined);
    return { reference, digest, sizeBytes };
  }

  async #removing<T>(remove: () => Promise<T>): Promise<T> {
    const removal = this.#removal.then(remove);
    this.#removal = removal.catch(() => undefined); // its caller hears of it
    return await removal;
  }

  async #open(): Promise<void> {
    this.#ready ??= this.#prepare();
    try {
      await this.#ready;
    } catch (error) {
      this.#ready = null;
      throw error;
    }
  }

  async #give(resolved: Resolved, watch: Watch): Promise<BuiltImage> {
    const cached = await this.#cache.find(resolved.digest);
    if (cached !== null) return cached;
    const running = this.#flights.get(resolved.digest) ?? this.#start(resolved);
    running.watchers.add(watch);
    watch(running.last);
    try {
      return await running.promise;
    } finally {
      running.watchers.delete(watch);
    }
  }

  /** Ends all builds and waits until they have cleaned up. */
  async close(): Promise<void> {
    this.#lifetime.abort(new LvError("SHUTTING_DOWN", "The image store is closing"));
    await Promise.allSettled([...this.#flights.values()].map(({ promise }) => promise));
  }

  async #prepare(): Promise<void> {
    for (const folder of ["images", "blobs", "blobs/sha256", "blobs/loaded"])
      await removeAbandoned(join(this.#dir, folder));
    await this.#cache.clean();
  }

  #start(resolved: Resolved): Flight {
    const { layers } = resolved.manifest;
    const flight: Flight = {
      promise: Promise.reject(new Error("not started")),
      watchers: new Set(),
      blobs: new Set([resolved.manifest.config, ...layers].map(({ digest }) => digest)),
      last: { phase: "pulling", bytesDone: 0, bytesTotal: sizeOf(layers), layers: layers.length },
    };
    flight.promise.catch(() => undefined); // the placeholder above is replaced at once
    const report = (progress: Omit<ImageProgress, "layers">): void => {
      flight.last = { ...progress, layers: layers.length };
      for (const watch of flight.watchers) watch(flight.last);
    };
    flight.promise = this.#slots
      .run(
        this.#lifetime.signal,
        () => this.#build(resolved, report),
        (queuePosition) =>
          report({ phase: "queued", bytesDone: 0, bytesTotal: sizeOf(layers), queuePosition }),
      )
      .finally(() => this.#flights.delete(resolved.digest));
    this.#flights.set(resolved.digest, flight);
    return flight;
  }

  async #build(resolved: Resolved, report: Report): Promise<BuiltImage> {
    const late = new AbortController();
    const timer = setTimeout(
      () => late.abort(new LvError("TIMEOUT", `Image "${resolved.image}" took too long to build`)),
      LIMITS.imagePullTimeoutMs,
    );
    const signal = AbortSignal.any([this.#lifetime.signal, late.signal]);
    try {
      // What is being removed was chosen before this build could say what it needs.
      await this.#removal;
      const room = await this.#takeRoom(resolved, report, signal);
      try {
        const watched: Report = (progress) => {
          room.use(progress);
          report(progress);
        };
        const built = await this.#attempt(resolved, watched, signal);
        await this.#loaded.built(resolved.digest);
        return built;
      } finally {
        room.release();
      }
    } catch (error) {
      const known = LvError.from(error);
      if (!RESUMABLE.includes(known.reason))
        for (const { digest } of resolved.manifest.layers) await this.#blobs.dropPart(digest);
      if (known.reason === "DISK_FULL" && !(known instanceof NoRoomError))
        throw new LvError("DISK_FULL", `The host has no room left for image "${resolved.image}"`, {
          cause: known,
        });
      throw known;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Refuses a build that the disk cannot hold; one that could be held alone waits for others. */
  async #takeRoom({ image, manifest }: Resolved, report: Report, signal: AbortSignal) {
    const layers = [...new Map(manifest.layers.map((l) => [l.digest, l])).values()];
    const fetchBytes = await this.#blobs.missing(layers);
    // zstd at level 1 takes about what gzip takes at its default.
    const writeBytes = sizeOf(manifest.layers);
    const here = sizeOf(layers) - fetchBytes;
    const waiting = { phase: "queued", bytesDone: 0, bytesTotal: writeBytes } as const;
    const room = await this.#room.take({ image, fetchBytes, writeBytes }, signal, () =>
      report({ ...waiting, queuePosition: 1 }),
    );
    const use = ({ phase, bytesDone }: Omit<ImageProgress, "layers">): void =>
      room.use(phase === "pulling" ? bytesDone - here : fetchBytes + bytesDone);
    return { use, release: () => room.release() };
  }

  /** A second time when a blob that lay here turned out spoilt: it is gone by now. */
  async #attempt(resolved: Resolved, report: Report, outer: AbortSignal): Promise<BuiltImage> {
    for (let again = false; ; again = true) {
      // One failure ends the other downloads of this image.
      const failed = new AbortController();
      const signal = AbortSignal.any([outer, failed.signal]);
      const fresh = new Set<string>();
      try {
        const checked = await this.#pullConfig(resolved, signal);
        return await this.#pullAndConvert(resolved, checked, report, { signal, failed, fresh });
      } catch (error) {
        const spoilt = error instanceof LayerError && !fresh.has(error.digest);
        if (!spoilt || again) throw error;
        this.#note("a stored layer was spoilt and is fetched again", { digest: error.digest });
      }
    }
  }

  #source({ reference, image }: Resolved): BlobSource {
    return {
      image,
      open: (digest, from, signal) => this.#registry.blob(reference, digest, from, signal),
      chunks: (response) => this.#registry.chunks(response),
    };
  }

  async #pullConfig(resolved: Resolved, signal: AbortSignal): Promise<CheckedConfig> {
    const { config, layers } = resolved.manifest;
    if (config.size > LIMITS.imageConfigBytes)
      throw new LvError(
        "IMAGE_TOO_LARGE",
        `The config of image "${resolved.image}" is ${config.size} bytes long`,
      );
    await this.#blobs.fetch(config, this.#source(resolved), () => {}, signal);
    const bytes = await this.#blobs.read(config.digest, LIMITS.imageConfigBytes);
    if (bytes === null)
      throw new LvError("IMAGE_CORRUPT", `The config of image "${resolved.image}" changed on disk`);
    return parseConfig(bytes, layers.length, resolved.image);
  }

  /**
   * Layers are laid over each other in order, each as soon as it is whole, while the next ones
   * are still on their way.
   */
  async #pullAndConvert(
    resolved: Resolved,
    { diffIds, config }: CheckedConfig,
    report: Report,
    ends: Ends,
  ): Promise<BuiltImage> {
    const { layers } = resolved.manifest;
    const progress = new PullProgress(layers, report, this.#garbage);
    const pull = this.#pullLayers(resolved, progress, ends);
    try {
      return await this.#cache.add(resolved.digest, config, async (path) => {
        const flattener = new Flattener();
        const writer = new LayeredWriter(path, flattener, ends.signal);
        try {
          for (const [index, layer] of layers.entries()) {
            await pull.ready(layer.digest);
            const diffId = diffIds[index] ?? "";
            await this.#addLayer(writer, layer, diffId, resolved, progress.converting(layer));
          }
          this.#noteDropped(flattener, resolved);
          return await writer.finish();
        } finally {
          await writer.close();
        }
      });
    } catch (error) {
      ends.failed.abort(error);
      throw error;
    } finally {
      await pull.ended;
    }
  }

  /** `ended` never rejects; `ready` rejects with what ended the build. */
  #pullLayers(
    resolved: Resolved,
    progress: PullProgress,
    { signal, failed, fresh }: Ends,
  ): { ready: (digest: string) => Promise<void>; ended: Promise<unknown> } {
    // The same blob may serve as several layers.
    const blobs = new Map(resolved.manifest.layers.map((l) => [l.digest, l]));
    const arrivals = new Map<string, PromiseWithResolvers<void>>();
    for (const digest of blobs.keys()) {
      const arrival = Promise.withResolvers<void>();
      arrival.promise.catch(() => undefined); // awaited in the order of layers, if at all
      arrivals.set(digest, arrival);
    }
    const todo = blobs.values();
    const work = async (): Promise<void> => {
      for (const blob of todo) {
        try {
          const watch = progress.pulling(blob);
          const { fetched } = await this.#blobs.fetch(blob, this.#source(resolved), watch, signal);
          if (fetched) fresh.add(blob.digest);
          arrivals.get(blob.digest)?.resolve();
        } catch (error) {
          failed.abort(error);
          // The first failure is the abort's reason; the others only say that they were stopped.
          for (const arrival of arrivals.values()) arrival.reject(signal.reason);
          return;
        }
      }
    };
    const ended = Promise.allSettled(Array.from({ length: PARALLEL_BLOBS }, work));
    return { ready: async (digest) => await arrivals.get(digest)?.promise, ended };
  }

  #noteDropped({ droppedXattrs }: Flattener, { image }: Resolved): void {
    if (droppedXattrs.size > 0)
      this.#note("xattrs that squashfs cannot hold were left out", {
        image,
        xattrs: Object.fromEntries([...droppedXattrs].slice(0, 20)),
      });
  }

  /** One layer into the image, its diff_id checked over every uncompressed byte. */
  async #addLayer(
    writer: LayeredWriter,
    layer: Descriptor,
    diffId: string,
    resolved: Resolved,
    onStored: (bytes: number) => void,
  ): Promise<void> {
    const { digest } = layer;
    try {
      const was = await writer.add({ path: this.#blobs.path(digest), digest }, onStored);
      if (was !== diffId) throw new LvError("IMAGE_CORRUPT", `it unpacks to ${was}, not ${diffId}`);
    } catch (error) {
      throw await this.#layerFailure(error, layer, resolved);
    }
  }

  /** Names the image and the layer; a blob that went bad on disk is dropped to be fetched again. */
  async #layerFailure(thrown: unknown, layer: Descriptor, resolved: Resolved): Promise<unknown> {
    if (!(thrown instanceof LvError) || thrown.reason !== "IMAGE_CORRUPT") return thrown;
    await this.#blobs.drop(layer.digest);
    const message = `Layer ${layer.digest} of image "${resolved.image}" is corrupt: ${thrown.message}`;
    return new LayerError(layer.digest, message, thrown);
  }
}

class LayerError extends LvError {
  readonly digest: string;
  constructor(digest: string, message: string, cause: unknown) {
    super("IMAGE_CORRUPT", message, { cause });
    this.digest = digest;
  }
}

function sizeOf(descriptors: readonly Descriptor[]): number {
  return descriptors.reduce((sum, { size }) => sum + size, 0);
}

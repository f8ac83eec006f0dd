/**
 * Operations on images: pull, prune, pin, remove. Journalled before they begin and run again by
 * the next agent when this one ends, as those on machines are; each is safe to run twice. They
 * need no order among each other, so they run side by side; the image store bounds its builds.
 * What the host has is told before the Result, so that who reads the Result finds it.
 */
import { create } from "@bufbuild/protobuf";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import {
  type ImageInventory,
  ImageInventorySchema,
  type ImageOutcome,
  ImageOutcomeSchema,
  type Op,
  ResultSchema,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import type { Images } from "../images/types.ts";
import { ensureImage } from "./ops/ensure-image.ts";
import { oneLine } from "./ops/status.ts";
import type { HostServices } from "./ops/types.ts";

const IMAGE_OPS: readonly unknown[] = ["pullImage", "pruneImages", "pinImage", "removeImage"];

export function isImageOp(op: Op): boolean {
  return IMAGE_OPS.includes(op.command.case);
}

/** All that `Images.list` says, as the link says it. */
export async function imageInventory(images: Images): Promise<ImageInventory> {
  const all = await images.list();
  return create(ImageInventorySchema, {
    images: all.slice(0, LIMITS.imageInventory).map((image) => ({
      digest: image.digest,
      sizeBytes: BigInt(image.sizeBytes),
      lastUsedMs: BigInt(Math.floor(image.lastUsedMs)),
      pinned: image.pinned,
      references: image.references,
    })),
  });
}

export class ImageJobs {
  readonly #host: HostServices;
  readonly #running = new Set<Promise<void>>();

  constructor(host: HostServices) {
    this.#host = host;
  }

  /** The op is in the journal already. Returns at once. */
  submit(op: Op): void {
    const run = this.#run(op).finally(() => this.#running.delete(run));
    this.#running.add(run);
  }

  /** Resolves when none is under way; after a shutdown they let go soon. */
  async drained(): Promise<void> {
    await Promise.all(this.#running);
  }

  /** Never rejects. */
  async #run(op: Op): Promise<void> {
    const { journal, logins, shutdown, log } = this.#host;
    let image: ImageOutcome | undefined;
    let failure: LvError | null = null;
    try {
      image = await this.#apply(op);
      this.#host.emit({ case: "images", value: await imageInventory(this.#host.images) });
    } catch (error) {
      failure = LvError.from(error);
      if (failure.reason === "INTERNAL")
        log.error({ err: error, opId: op.opId }, "image job failed");
    }
    // Left in the journal for the next agent.
    if (shutdown.aborted || failure?.reason === "SHUTTING_DOWN") return;
    logins.forget(op.opId);
    const result = create(ResultSchema, {
      opId: op.opId,
      machineId: op.machineId,
      errorReason: failure?.reason ?? "",
      errorMessage: oneLine(failure?.message ?? ""),
      ...(image === undefined ? {} : { image }),
    });
    journal.finishOp(result);
    this.#host.emit({ case: "result", value: result });
  }

  async #apply(op: Op): Promise<ImageOutcome> {
    const { images, shutdown } = this.#host;
    const { command } = op;
    switch (command.case) {
      case "pullImage": {
        const built = await ensureImage(this.#host, op, command.value.image, shutdown);
        const { digest } = built;
        return create(ImageOutcomeSchema, { digest, sizeBytes: BigInt(built.sizeBytes) });
      }
      case "pinImage": {
        const { digest, pinned } = command.value;
        await images.pin(digest, pinned);
        return create(ImageOutcomeSchema, { digest });
      }
      case "removeImage":
        return removed(await removeOnce(images, command.value.digest));
      case "pruneImages":
        return removed(await images.prune(command.value.all));
      case "start":
      case "stop":
      case "destroy":
      case undefined:
        throw new LvError("UNIMPLEMENTED", "This agent does not know the operation");
      default: {
        const rest: never = command;
        return rest;
      }
    }
  }
}

/** That it is gone already is what was asked for: this may be the second run. */
async function removeOnce(images: Images, digest: string): ReturnType<Images["remove"]> {
  try {
    return await images.remove(digest);
  } catch (error) {
    if (!(error instanceof LvError) || error.reason !== "IMAGE_NOT_FOUND") throw error;
    return { digests: [], freedBytes: 0 };
  }
}

function removed({ digests, freedBytes }: Awaited<ReturnType<Images["prune"]>>): ImageOutcome {
  return create(ImageOutcomeSchema, { removed: digests, freedBytes: BigInt(freedBytes) });
}

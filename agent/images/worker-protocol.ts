/** What the main thread and the image worker say to each other, by structured clone. */
import type { Reason } from "../../proto/errors.ts";
import type { BuiltImage, ImageProgress, RegistryConfig } from "./types.ts";

export type ToWorker =
  | { type: "open"; dir: string; config: RegistryConfig }
  | { type: "ensure"; job: number; reference: string }
  /** Manifests that machines need; sent before what may remove images. */
  | { type: "roots"; digests: string[] }
  | { type: "collect" }
  | { type: "close" };

export type FromWorker =
  | { type: "progress"; job: number; progress: ImageProgress }
  | { type: "built"; job: number; image: BuiltImage }
  | { type: "failed"; job: number; reason: Reason; message: string; detail: string }
  | { type: "note"; message: string; fields: Record<string, unknown> }
  | { type: "closed" };

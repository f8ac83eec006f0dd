/** The REST API's shapes of images and of registry credentials; rest.ts has the rest. */
import { z } from "zod";
import { LIMITS } from "../lib/limits.ts";
import { ImageProgress } from "./rest.ts";

const digest = z
  .string()
  .regex(/^sha256:[0-9a-f]{64}$/, "expected sha256: and 64 hexadecimal digits");

const hostRef = z.string().min(1).max(256);

export const Image = z
  .object({
    digest: z.string().meta({ description: "Of the image manifest for linux/amd64" }),
    references: z
      .array(z.string())
      .meta({ description: "What it was pulled by; a tag that has moved is gone from here" }),
    size: z.int().meta({ description: "Bytes on each host's disk" }),
    hosts: z.array(
      z.object({
        host_id: z.string(),
        host_name: z.string(),
        last_used_at: z.string(),
        pinned: z.boolean(),
        machines: z.int().meta({ description: "That are not destroyed; the project's own" }),
      }),
    ),
  })
  .meta({ id: "Image" });
export type Image = z.infer<typeof Image>;

export const PullImageRequest = z
  .strictObject({
    image: z.string().min(1).max(1024).meta({ description: "OCI reference by tag or digest" }),
    host: hostRef
      .optional()
      .meta({ description: "Id or name; without it on every host that takes machines" }),
    platform: z.string().max(64).optional().meta({
      description: "Only linux/amd64 is run",
      example: "linux/amd64",
    }),
  })
  .meta({ id: "PullImageRequest" });
export type PullImageRequest = z.input<typeof PullImageRequest>;

export const PruneImagesRequest = z
  .strictObject({
    host: hostRef.optional().meta({ description: "Id or name; without it on every host" }),
    all: z
      .boolean()
      .default(false)
      .meta({ description: "Also what was used within the last day, but for half a minute" }),
  })
  .meta({ id: "PruneImagesRequest" });

export const PinImageRequest = z
  .strictObject({
    image: z.string().min(1).max(1024).meta({ description: "Reference or digest" }),
    host: hostRef.optional().meta({ description: "Without it on every host that has it" }),
    pinned: z.boolean().default(true),
  })
  .meta({ id: "PinImageRequest" });

export const ImageJob = z
  .object({
    id: z.string().meta({ example: "job_0123456789abcdefghjk" }),
    kind: z.enum(["pull", "prune", "pin", "unpin", "remove"]),
    image: z.string(),
    host_id: z.string(),
    host_name: z.string(),
    state: z
      .enum(["pending", "done", "failed"])
      .meta({ description: "It goes on whoever asks, and when the host comes back" }),
    progress: ImageProgress.nullable(),
    digest: z.string().nullable(),
    bytes: z.int().nullable().meta({ description: "Of the image, or freed" }),
    removed: z.int().nullable().meta({ description: "Images that are gone" }),
    error_reason: z.string().nullable(),
    error_message: z.string().nullable(),
    created_at: z.string(),
    finished_at: z.string().nullable(),
  })
  .meta({ id: "ImageJob" });
export type ImageJob = z.infer<typeof ImageJob>;

export const LoadedImage = z
  .object({
    host_id: z.string(),
    host_name: z.string(),
    reference: z.string().nullable().meta({ description: "To run it by; null when it failed" }),
    digest: digest.nullable(),
    size: z.int().nullable(),
    error_reason: z.string().nullable(),
    error_message: z.string().nullable(),
  })
  .meta({ id: "LoadedImage" });
export type LoadedImage = z.infer<typeof LoadedImage>;

export const RegistryLogin = z
  .strictObject({
    registry: z.string().min(1).max(255).meta({ example: "ghcr.io" }),
    username: z.string().min(1).max(1_024),
    password: z.string().min(1).max(LIMITS.registryPasswordBytes).meta({
      description: "Or an access token. Kept encrypted; no answer ever has it",
    }),
  })
  .meta({ id: "RegistryLogin" });

export const Registry = z
  .object({ registry: z.string(), username: z.string(), updated_at: z.string() })
  .meta({ id: "Registry" });
export type Registry = z.infer<typeof Registry>;

/** What the main thread and the image worker say to each other, by structured clone. */
import type { Reason } from "../../proto/errors.ts";
import type {
  BuiltImage,
  ImageProgress,
  LoadedImage,
  Login,
  NamedImage,
  RegistryConfig,
  Removed,
} from "./types.ts";

/** Questions beside pulls, each with one answer. */
export type Questions = {
  list: { ask: object; answer: NamedImage[] };
  pin: { ask: { digest: string; pinned: boolean }; answer: null };
  remove: { ask: { digest: string }; answer: Removed };
  prune: { ask: { all: boolean }; answer: Removed };
  load: { ask: { path: string; tag: string | null }; answer: LoadedImage };
};
export type Question = {
  [K in keyof Questions]: { kind: K } & Questions[K]["ask"];
}[keyof Questions];
export type Answer = Questions[keyof Questions]["answer"];

export type ToWorker =
  | { type: "open"; dir: string; config: RegistryConfig }
  | { type: "ensure"; job: number; reference: string; login: Login | null }
  | { type: "ask"; job: number; question: Question }
  /** Manifests that machines need; sent before what may remove images. */
  | { type: "roots"; digests: string[] }
  | { type: "collect" }
  | { type: "close" };

export type FromWorker =
  | { type: "progress"; job: number; progress: ImageProgress }
  | { type: "built"; job: number; image: BuiltImage }
  | { type: "answer"; job: number; answer: Answer }
  | { type: "failed"; job: number; reason: Reason; message: string; detail: string }
  | { type: "note"; message: string; fields: Record<string, unknown> }
  /** What `list` answers may be another than before. */
  | { type: "changed" }
  | { type: "closed" };

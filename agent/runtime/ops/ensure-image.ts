/** The image of an op, with its progress on the way up. */
import { create } from "@bufbuild/protobuf";
import {
  BuildProgress_Phase,
  BuildProgressSchema,
  type Op,
} from "../../../proto/gen/leveret/v1/agent_pb.js";
import type { BuiltImage, ImagePhase, ImageProgress } from "../../images/types.ts";
import type { HostServices } from "./types.ts";

const PHASES: Record<ImagePhase, BuildProgress_Phase> = {
  queued: BuildProgress_Phase.QUEUED,
  resolving: BuildProgress_Phase.RESOLVING,
  pulling: BuildProgress_Phase.PULLING,
  converting: BuildProgress_Phase.CONVERTING,
  ready: BuildProgress_Phase.READY,
};

/** Throws what Images.ensure throws; the build goes on when the signal ends the wait. */
export async function ensureImage(
  host: Pick<HostServices, "images" | "emit" | "logins">,
  op: Op,
  image: string,
  signal: AbortSignal,
): Promise<BuiltImage> {
  const report = (phase: BuildProgress_Phase, progress?: ImageProgress): void =>
    host.emit({
      case: "progress",
      value: create(BuildProgressSchema, {
        machineId: op.machineId,
        image,
        phase,
        bytesDone: BigInt(progress?.bytesDone ?? 0),
        bytesTotal: BigInt(progress?.bytesTotal ?? 0),
        layers: progress?.layers ?? 0,
        layersDone: progress?.layersDone ?? 0,
        queuePosition: progress?.queuePosition ?? 0,
        bytesPerSecond: BigInt(progress?.bytesPerSecond ?? 0),
      }),
    });
  try {
    const login = await host.logins.of(op, signal);
    return await host.images.ensure(image, {
      signal,
      login,
      onProgress: (progress) => report(PHASES[progress.phase], progress),
    });
  } catch (error) {
    if (!signal.aborted) report(BuildProgress_Phase.FAILED);
    throw error;
  }
}

/** The agent as it runs in a lab: dials the control plane outside, claims KVM of kind "lab". */
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { BUN, CHECKOUT } from "../paths.ts";
import { startInLab } from "./exec.ts";
import { OUTSIDE } from "./protocol.ts";
import type { LabState } from "./state.ts";

export const LAB_AGENT_DIR = "/run/leveret/agent";
export const LAB_AGENT_LOG = "/run/leveret/agent.log";

export type LabAgentOptions = {
  /** host:port of the control plane's gRPC listener as seen from outside the lab. */
  controlPlane: string;
  /** null = a plain link, without certificates. */
  joinToken: string | null;
  hostName?: string;
  env?: Record<string, string>;
};

/** The environment of an agent in the lab; registries on the outside's loopback are reachable. */
export function labAgentEnvironment(options: LabAgentOptions): Record<string, string> {
  const match = /^(.+):(\d+)$/.exec(options.controlPlane);
  if (!match) throw new LvError("CONFIG_INVALID", `"${options.controlPlane}" is not HOST:PORT`);
  const [, host = "", port = ""] = match;
  const isLoopback = host === "localhost" || host.startsWith("127.");
  return {
    CONTROL_PLANE_GRPC_ADDR: `${isLoopback ? OUTSIDE : host}:${port}`,
    ...(options.joinToken === null
      ? { LEVERET_INSECURE_LINK: "1" }
      : { LEVERET_JOIN_TOKEN: options.joinToken }),
    LEVERET_KVM_KIND: "lab",
    LEVERET_AGENT_DIR: LAB_AGENT_DIR,
    // Where every instruction is emulated, a process for later slows the machine of now.
    LEVERET_POOL_SIZE: "0",
    LEVERET_HOST_NAME: options.hostName ?? "lab",
    LEVERET_REGISTRY_MIRRORS: `127.0.0.1:*=http://${OUTSIDE}:*,localhost:*=http://${OUTSIDE}:*`,
    ...options.env,
  };
}

/** Returns the agent's pid in the lab; it outlives this process. */
export function startAgentInLab(lab: LabState, options: LabAgentOptions): Promise<number> {
  return startInLab(lab, {
    argv: [BUN, "--no-env-file", join(CHECKOUT, "agent", "main.ts")],
    env: labAgentEnvironment(options),
    logPath: LAB_AGENT_LOG,
  });
}

/**
 * What can be asked of a machine, and in which phase: the control socket's actions are
 * the keys of this table, and a request that its row does not allow never reaches the run.
 *
 *   boot      a process that was started ahead of its machine reads spec.json and begins
 *   pause     vCPUs and devices stand still; time goes on
 *   resume
 *   balloon   so much of its memory the guest is to give back
 *   signal    to the image's process
 *   stop      the process's own way to end, killed with its machine after a while
 *   shutdown  the guest ends its processes, syncs and switches itself off through ACPI:
 *             our init because it is told to, any other guest because its power button
 *             is pressed; forced after a while
 *   reset     the reset line. A guest that pulls it itself (reboot, panic, triple fault)
 *             ends its run as well: devices, disks and network are set up by the agent,
 *             and only the control plane says that a machine is started again, by its
 *             restart policy or because it was asked to
 *   kill      at once
 */
import type { VmmAction, VmmPhase } from "../../proto/vmm.ts";

const LIVING: readonly VmmPhase[] = ["booting", "running", "paused", "stopping"];

export const ALLOWED: Record<VmmAction, readonly VmmPhase[]> = {
  status: ["waiting", ...LIVING, "ended"],
  metrics: LIVING,
  boot: ["waiting"],
  pause: ["running"],
  resume: ["paused"],
  balloon: ["running"],
  signal: ["running", "stopping"],
  stop: LIVING,
  shutdown: LIVING,
  reset: LIVING,
  kill: ["waiting", ...LIVING],
};

export const isAction = (name: unknown): name is VmmAction =>
  typeof name === "string" && Object.hasOwn(ALLOWED, name);

/** Null = allowed, else why not. */
export function refuse(action: VmmAction, phase: VmmPhase): string | null {
  if (ALLOWED[action].includes(phase)) return null;
  return `The machine is ${phase}: ${action} needs it to be ${ALLOWED[action].join(" or ")}`;
}

/** The machine's network: a user-mode stack beside its VMM, when this host has one. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../../../lib/clock.ts";
import { VMM_FILES } from "../../../proto/vmm.ts";
import { killPasst, startPasst } from "../passt.ts";
import type { Hook } from "./hook.ts";

/** program: passt's path. After the hook that gives the machine its user. */
export function passtHook(program: string, clock: Clock): Hook {
  return {
    name: "network",
    async up(context) {
      const { request, dir } = context;
      // Without a jail the VMM is the agent's user, and so is its network.
      const uid = context.uid ?? process.getuid?.() ?? 0;
      context.network = await startPasst(program, request.machineId, dir, uid, clock);
    },
    async down({ request, dir }) {
      killPasst(request.machineId);
      await rm(join(dir, VMM_FILES.passt), { force: true });
    },
  };
}

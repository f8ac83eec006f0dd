/**
 * The machine's network: a user-mode stack beside its VMM, or an interface on a bridge of
 * the host, which the jail makes and which lives as long as the VMM.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../../../lib/clock.ts";
import { VMM_FILES } from "../../../proto/vmm.ts";
import { LvError } from "../../../proto/errors.ts";
import type { Jail } from "../jail.ts";
import { type Bridge, tapNetwork } from "../tap.ts";
import { killPasst, startPasst } from "../passt.ts";
import type { Hook } from "./hook.ts";

/** After the hook that gives the machine its user, whose number is its address as well. */
export function tapHook(bridge: Bridge, jail: Jail): Hook {
  return {
    name: "network",
    async up(context) {
      const { request, uid } = context;
      if (uid === null) throw new LvError("INTERNAL", "A machine without a user has no interface");
      context.network = tapNetwork(bridge, request.machineId, uid, jail.numberOf(uid));
    },
    // The interface goes with the process that has it open.
    down: () => Promise.resolve(),
  };
}

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

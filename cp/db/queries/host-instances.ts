import { and, eq, lt, sql } from "drizzle-orm";
import type { Instances } from "../../core/instances.ts";
import type { Db } from "../index.ts";
import { hostInstances } from "../schema/host-instances.ts";
import { hosts } from "../schema/hosts.ts";

/** How long two agents must not have taken turns for the host to be trusted again. */
const QUIET = sql`interval '10 minutes'`;

/** Locks the row until the transaction ends. */
export async function lockInstances(tx: Db, hostId: string): Promise<Instances | null> {
  const [row] = await tx
    .select({
      current: hostInstances.current,
      earlier: hostInstances.earlier,
      returns: hostInstances.returns,
      recent: sql<boolean>`coalesce(${hostInstances.returnedAt} > now() - ${QUIET}, false)`,
    })
    .from(hostInstances)
    .where(eq(hostInstances.hostId, hostId))
    .for("update");
  return row ?? null;
}

/** `returned`: it is one that was here before, and now is when it came back. */
export async function putInstances(
  tx: Db,
  hostId: string,
  { current, earlier, returns }: Instances,
  returned: boolean,
): Promise<void> {
  const change = {
    current,
    earlier,
    returns,
    ...(returned ? { returnedAt: sql`now()` } : {}),
  };
  await tx
    .insert(hostInstances)
    .values({ hostId, ...change })
    .onConflictDoUpdate({ target: hostInstances.hostId, set: change });
}

/** Hosts in conflict whose agents have taken no turns for a while are ready again. */
export async function settleConflicts(tx: Db): Promise<string[]> {
  const rows = await tx
    .update(hosts)
    .set({ state: "ready" })
    .from(hostInstances)
    .where(
      and(
        eq(hosts.state, "conflict"),
        eq(hostInstances.hostId, hosts.id),
        lt(hostInstances.returnedAt, sql`now() - ${QUIET}`),
      ),
    )
    .returning({ id: hosts.id });
  return rows.map((row) => row.id);
}

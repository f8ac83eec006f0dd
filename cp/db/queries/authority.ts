import type { Db } from "../index.ts";
import { authority } from "../schema/authority.ts";

export type SealedAuthority = { certificate: Uint8Array; sealedKey: Uint8Array };

export async function getAuthority(tx: Db): Promise<SealedAuthority | undefined> {
  const [row] = await tx.select().from(authority);
  return row;
}

/** Does nothing when another replica was first. */
export async function putAuthority(tx: Db, made: SealedAuthority): Promise<void> {
  await tx
    .insert(authority)
    .values({ id: 1, ...made })
    .onConflictDoNothing();
}

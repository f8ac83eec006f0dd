/** Who may do what. Pure. */
import { SCOPES, type Scope } from "../../proto/rest.ts";

/** What a route asks of its caller. "fleet_…" concerns every project: the hosts, the projects themselves. */
export type Access = "read" | "write" | "admin" | "fleet_read" | "fleet_admin";

export type Principal = {
  tokenId: string;
  scope: Scope;
  /** Whose machines the request is about. */
  projectId: string;
  /** Good for every project and for the hosts. */
  fleet: boolean;
};

const NEEDS: Record<Access, { scope: Scope; fleet: boolean }> = {
  read: { scope: "read", fleet: false },
  write: { scope: "write", fleet: false },
  admin: { scope: "admin", fleet: false },
  fleet_read: { scope: "read", fleet: true },
  fleet_admin: { scope: "admin", fleet: true },
};

/** Null when the caller may, else what is missing, for a person. */
export function missing(
  principal: Pick<Principal, "scope" | "fleet">,
  access: Access,
): string | null {
  const need = NEEDS[access];
  if (!covers(principal.scope, need.scope))
    return `a token of scope ${need.scope}; this one has ${principal.scope}`;
  if (need.fleet && !principal.fleet) return "a fleet token; this one belongs to one project";
  return null;
}

/** True when `held` includes what `wanted` allows. */
export function covers(held: Scope, wanted: Scope): boolean {
  return SCOPES.indexOf(held) >= SCOPES.indexOf(wanted);
}

/**
 * Telling two agents that share a key (a cloned disk) from one that reconnects. Each
 * run of an agent has a random name. One that is superseded and speaks again is alive
 * beside the other: A B A is seen once when somebody starts a second agent by mistake
 * and ends it; A B A B is two that take turns.
 */
export type Instances = {
  current: string;
  /** Newest first. */
  earlier: string[];
  returns: number;
  /** Whether the last return was a short time ago, by the database's clock. */
  recent: boolean;
};

const REMEMBERED = 8;
const CONFLICT_RETURNS = 2;

/** What is known once this run has registered; null = it is what was known. */
export function arrive(known: Instances | null, instance: string): Instances | null {
  if (known === null) return { current: instance, earlier: [], returns: 0, recent: false };
  const { current, earlier, returns, recent } = known;
  if (instance === current) return null;
  const back = earlier.includes(instance);
  return {
    current: instance,
    earlier: [current, ...earlier.filter((name) => name !== instance)].slice(0, REMEMBERED),
    returns: back ? (recent ? returns : 0) + 1 : returns,
    recent: back || recent,
  };
}

export function isConflict({ returns, recent }: Instances): boolean {
  return recent && returns >= CONFLICT_RETURNS;
}

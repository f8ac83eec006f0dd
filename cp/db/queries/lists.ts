import { type Column, type SQL, sql } from "drizzle-orm";

/**
 * `value` is one of the texts. They go as one array: whatever their number, the statement
 * stays the same one, which PostgreSQL may keep and drizzle need not write out.
 */
export function oneOf(value: Column | SQL, texts: string[]): SQL {
  return sql`${value} = any(${sql.param(texts)}::text[])`;
}

/**
 * Like oneOf, of two columns together. A condition on the row alone, unlike a join: such
 * statements find their rows by an index on the first, and so lock them in one order.
 * Neither column's values have spaces.
 */
export function onePairOf(
  [first, second]: [Column, Column],
  pairs: (readonly [string, string | number])[],
): SQL {
  const texts = pairs.map((pair) => pair.join(" "));
  return sql`${oneOf(first, [...new Set(pairs.map(([one]) => one))])} and ${oneOf(sql`(${first} || ' ' || ${second})`, texts)}`;
}

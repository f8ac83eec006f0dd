/** A finding: what a parser promised and did not keep. */
export class Finding extends Error {
  override readonly name = "Finding";
}

export function must(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Finding(what);
}

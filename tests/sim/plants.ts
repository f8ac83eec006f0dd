/**
 * Bugs for the simulator to find. None is in the product: each changes statements or
 * frames on their way, as if the product had left the mechanism out. A plant that
 * changes nothing any more, because the product says it in other words, is an error.
 */
import type { Bugs } from "./world.ts";

export const PLANTS: Readonly<Record<string, Bugs>> = {
  /** Writes on behalf of a stream count whatever its epoch. */
  epoch: {
    sql: (sql) =>
      sql
        .replaceAll(/"hosts"\."epoch" = (\$\d+)/g, "$1 is not null")
        .replaceAll(
          /\("hosts"\."id" \|\| ' ' \|\| "hosts"\."epoch"\) = any\((\$\d+)::text\[\]\)/g,
          "$1 is not null",
        ),
  },
  /** The retry of a request is another request. */
  idempotency: {
    sql: (sql) =>
      sql.startsWith('insert into "idempotency_keys"')
        ? sql.replace(/(on conflict .*) where .*(?= returning)/, "$1")
        : sql,
  },
  /** An op that was sent once is never sent again. */
  resend: {
    sql: (sql) => sql.replaceAll(/("ops"\."sent_epoch") <> "hosts"\."epoch"/g, "$1 < 0"),
  },
  /** Every start is the machine's first. */
  incarnation: {
    frame: (frame) => {
      const { case: kind, value } = frame.frame;
      if (kind !== "op" || value.command.case !== "start") return false;
      const start = value.command.value;
      const changed = start.incarnation !== 1n;
      start.incarnation = 1n;
      return changed;
    },
  },
};

/** The same bugs, and how often they have changed something. */
export function counted(bugs: Bugs): { bugs: Bugs; changes: () => number } {
  const { sql, frame } = bugs;
  let changes = 0;
  return {
    bugs: {
      ...(sql && {
        sql: (text) => {
          const changed = sql(text);
          if (changed !== text) changes += 1;
          return changed;
        },
      }),
      ...(frame && {
        frame: (sent) => {
          const changed = frame(sent);
          if (changed) changes += 1;
          return changed;
        },
      }),
    },
    changes: () => changes,
  };
}

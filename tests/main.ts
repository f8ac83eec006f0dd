/** `./lev test [GROUP…]`: all groups, or those whose names are given. */
import { ALL_GROUPS } from "./groups.ts";
import { runGroups } from "./kit/suite.ts";

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !ALL_GROUPS.some((group) => group.name === name));
if (unknown.length > 0) {
  const names = ALL_GROUPS.map((group) => group.name).join(", ");
  process.stderr.write(`no test group is called "${unknown.join('", "')}"; there are: ${names}\n`);
  process.exit(2);
}
const groups = wanted.length === 0 ? ALL_GROUPS : ALL_GROUPS.filter((g) => wanted.includes(g.name));
process.exit(await runGroups(groups));

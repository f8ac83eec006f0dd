/** What `bun run check` and `./lev test` run, in order: the quick and telling first. */
import { bunTest, command, lines, type Group } from "./kit/suite.ts";

const minutes = (count: number): number => count * 60_000;

/** The gate before every commit. */
export const CHECK_GROUPS: Group[] = [
  command("format", ["bun", "fmt", "--check", "--no-script"]),
  command("format C", [
    "sh",
    "-c",
    "git ls-files -co --exclude-standard 'native/*.c' 'native/*.h' ':!native/guests' | xargs clang-format-14 --dry-run -Werror",
  ]),
  command("lint", ["oxlint", "--type-aware", "--deny-warnings"]),
  command("lint C", ["make", "-s", "-C", "native", "tidy"], minutes(4)),
  command("types", ["bun", "check", "--no-script"]),
  command("proto", ["buf", "lint"]),
  bunTest("tidy", ["tests/tidy"], minutes(2)),
  bunTest("unit", ["lib", "proto", "native", "cp", "agent", "cli"], minutes(4)),
  lines("native (asan)", ["make", "-s", "-C", "native", "asan-test"], minutes(5)),
  lines("native (tsan)", ["make", "-s", "-C", "native", "tsan-test"], minutes(5)),
  bunTest("api", ["tests/api"], minutes(4)),
];

/** Everything: with PostgreSQL, processes, KVM, a registry and the lab. */
export const ALL_GROUPS: Group[] = [
  ...CHECK_GROUPS,
  lines("fuzz", ["bun", "tests/fuzz/main.ts", "--seconds", "4"], minutes(5)),
  bunTest("stream", ["tests/stream"], minutes(5)),
  bunTest("agent", ["tests/agent", "tests/fault"], minutes(6)),
  bunTest("sim", ["tests/sim"], minutes(12)),
  bunTest("chaos", ["tests/chaos"], minutes(8)),
  bunTest("vm", ["tests/vm"], minutes(5)),
  bunTest("images", ["tests/images"], minutes(15)),
  bunTest("cli", ["tests/cli"], minutes(5)),
  bunTest("lab", ["tests/lab"], minutes(20)),
];

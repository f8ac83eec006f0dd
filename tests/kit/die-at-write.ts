/**
 * To be preloaded into an agent: SIGKILL at one write of its journal, as if the power of
 * the process had been cut there. LEVERET_TEST_DIE="before 3" or "after 3", counted from 1.
 */
import { Journal } from "../../agent/runtime/journal.ts";

const [when = "", at = ""] = (process.env["LEVERET_TEST_DIE"] ?? "").split(" ");
const WRITES = ["addOp", "finishOp", "acknowledge", "saveMachine", "forgetMachine"] as const;
const journal = Journal.prototype;
let count = 0;

for (const name of WRITES) {
  const write = Reflect.get(journal, name) as (...args: unknown[]) => void;
  Object.defineProperty(journal, name, {
    value(this: Journal, ...args: unknown[]): void {
      count += 1;
      const now = count === Number(at);
      if (now && when === "before") process.kill(process.pid, "SIGKILL");
      write.apply(this, args);
      if (now && when === "after") process.kill(process.pid, "SIGKILL");
    },
  });
}

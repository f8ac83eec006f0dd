/** A pull in a process of its own, to be killed: `bun store-child.ts DIR REFERENCE`. */
import { TestStore } from "./store.ts";

const [dir = "", reference = ""] = process.argv.slice(2);
await using own = new TestStore({}, dir);
let told = false;
await own.store.ensure(reference, {
  onProgress: ({ phase }) => {
    if (phase === "resolving" || told) return;
    told = true;
    process.stdout.write("pulling\n");
  },
});
process.stdout.write("built\n");

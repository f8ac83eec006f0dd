/** `bun run bench NAME [options] [--json]`: each benchmark prints a table or JSON lines. */
import { benchCreate, CREATE_USAGE } from "./create.ts";
import { benchHub, HUB_USAGE } from "./hub.ts";
import { benchPlace, PLACE_USAGE } from "./place.ts";
import { benchImages, IMAGE_USAGE, parseImageOptions } from "./image.ts";
import { shutdownSignal } from "../../lib/signals.ts";
import { type Figure, printFigures } from "./report.ts";
import { benchVmm, VMM_USAGE } from "./vmm.ts";

type Say = (line: string) => void;
type Bench = {
  usage: string;
  /** "signal" = SIGTERM and SIGINT abort the run, which ends what it has started. */
  ends: "signal" | "at once";
  run: (args: string[], say: Say, signal: AbortSignal) => Promise<Figure[]>;
};

const BENCHES: Readonly<Record<string, Bench>> = {
  vmm: { usage: VMM_USAGE, ends: "signal", run: benchVmm },
  create: { usage: CREATE_USAGE, ends: "at once", run: benchCreate },
  hub: { usage: HUB_USAGE, ends: "at once", run: benchHub },
  place: { usage: PLACE_USAGE, ends: "at once", run: benchPlace },
  image: {
    usage: IMAGE_USAGE,
    ends: "at once",
    run: (args, say) => benchImages(parseImageOptions(args), say),
  },
};

/** As after SIGTERM. */
const STOPPED = 143;

const USAGE = `Usage: bun run bench NAME [options] [--json]

${Object.values(BENCHES)
  .map(({ usage }) => `  ${usage}`)
  .join("\n")}
`;

async function main(argv: string[]): Promise<number> {
  const [name = "", ...rest] = argv;
  const bench = BENCHES[name];
  if (bench === undefined) {
    process.stderr.write(USAGE);
    return 64;
  }
  const json = rest.includes("--json");
  const say: Say = (line) => void process.stderr.write(`bench ${name}: ${line}\n`);
  const signal = bench.ends === "signal" ? shutdownSignal() : new AbortController().signal;
  try {
    const args = rest.filter((arg) => arg !== "--json");
    printFigures(await bench.run(args, say, signal), json);
    return 0;
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    return signal.aborted ? STOPPED : 1;
  }
}

process.exit(await main(process.argv.slice(2)));

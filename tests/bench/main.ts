/** `bun run bench NAME [options] [--json]`: each benchmark prints a table or JSON lines. */
import { benchBoot, BOOT_USAGE, parseBootOptions } from "./boot.ts";
import { benchBootInLab } from "./boot-lab.ts";
import { benchCreate, CREATE_USAGE } from "./create.ts";
import { benchHub, HUB_USAGE } from "./hub.ts";
import { benchPlace, PLACE_USAGE } from "./place.ts";
import { benchImages, IMAGE_USAGE, parseImageOptions } from "./image.ts";
import { type Figure, printFigures } from "./report.ts";
import { benchVmm, VMM_USAGE } from "./vmm.ts";

type Say = (line: string) => void;
type Bench = { usage: string; run: (args: string[], say: Say) => Promise<Figure[]> };

const BENCHES: Readonly<Record<string, Bench>> = {
  boot: { usage: BOOT_USAGE, run: boot },
  vmm: { usage: VMM_USAGE, run: benchVmm },
  create: { usage: CREATE_USAGE, run: benchCreate },
  hub: { usage: HUB_USAGE, run: benchHub },
  place: { usage: PLACE_USAGE, run: benchPlace },
  image: { usage: IMAGE_USAGE, run: (args, say) => benchImages(parseImageOptions(args), say) },
};

const LAB_ROUNDS = 5;

/** With options: that one boot, here. Without: in the lab, and here with the development kernel. */
async function boot(args: string[], say: Say): Promise<Figure[]> {
  if (args.length > 0) return await benchBoot(parseBootOptions(args), say);
  const direct = process.env["LEVERET_DEV_KERNEL"] ?? "";
  if (direct === "")
    say("boot_direct and idle_private_mib left out: LEVERET_DEV_KERNEL is not set");
  const figures = direct === "" ? [] : await benchBoot(parseBootOptions([]), say);
  return [...(await benchBootInLab(LAB_ROUNDS, say)), ...figures];
}

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
  try {
    printFigures(
      await bench.run(
        rest.filter((arg) => arg !== "--json"),
        say,
      ),
      json,
    );
    return 0;
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    return 1;
  }
}

process.exit(await main(process.argv.slice(2)));

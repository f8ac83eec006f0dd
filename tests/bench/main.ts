/** `bun run bench NAME [options] [--json]`: each benchmark prints a table or JSON lines. */
import { benchBoot, BOOT_USAGE, parseBootOptions } from "./boot.ts";
import { benchImages, IMAGE_USAGE, parseImageOptions } from "./image.ts";
import { type Figure, printFigures } from "./report.ts";

type Say = (line: string) => void;
type Bench = { usage: string; run: (args: string[], say: Say) => Promise<Figure[]> };

const BENCHES: Readonly<Record<string, Bench>> = {
  boot: { usage: BOOT_USAGE, run: (args, say) => benchBoot(parseBootOptions(args), say) },
  image: { usage: IMAGE_USAGE, run: (args, say) => benchImages(parseImageOptions(args), say) },
};

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

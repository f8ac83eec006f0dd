/**
 * `bun agent/kernel/main.ts`: makes the guest kernel package and says where it
 * is. Progress goes to standard error, the answer to standard output.
 */
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { LvError } from "../../proto/errors.ts";
import { importKernelPackage, makeDebianPackage } from "./make.ts";
import { defaultCacheDir, listKernelPackages, type KernelPackage } from "./package.ts";

const USAGE = `Usage: lev kernel [options]

Makes the guest kernel package out of Debian's cloud kernel, or finds it made.

  --update          ask apt for a newer kernel even when there is a package
  --kernel FILE     import this kernel (ELF vmlinux or bzImage) instead
  --initrd FILE     with --kernel: its initrd
  --modules none    with --kernel: it has its drivers built in, so make an
                    initramfs of init alone
  --print           print the paths as JSON
  --list            list the packages there are
`;

const EXIT_FAILED = 1;
const EXIT_USAGE = 64;

function parse() {
  return parseArgs({
    options: {
      update: { type: "boolean", default: false },
      kernel: { type: "string" },
      initrd: { type: "string" },
      modules: { type: "string" },
      print: { type: "boolean", default: false },
      list: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  }).values;
}

type Options = ReturnType<typeof parse>;

function progressLine(): (line: string) => void {
  const started = performance.now();
  return (line) => {
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    process.stderr.write(`[${seconds.padStart(6)} s] kernel: ${line}\n`);
  };
}

function bad(message: string): never {
  throw new LvError("BAD_REQUEST", message);
}

async function make(options: Options): Promise<KernelPackage> {
  const common = { cacheDir: defaultCacheDir(), update: options.update, progress: progressLine() };
  if (options.modules !== undefined && options.modules !== "none")
    bad(`--modules takes only "none", not "${options.modules}"`);
  if (options.kernel === undefined) {
    if (options.initrd !== undefined) bad("--initrd needs --kernel");
    if (options.modules !== undefined) bad("--modules none needs --kernel");
    return await makeDebianPackage(common);
  }
  if ((options.initrd === undefined) === (options.modules === undefined))
    bad("--kernel needs either --initrd FILE or --modules none");
  const initrdPath = options.initrd === undefined ? null : resolve(options.initrd);
  return await importKernelPackage({ ...common, kernelPath: resolve(options.kernel), initrdPath });
}

function list(): void {
  for (const { manifest } of listKernelPackages(defaultCacheDir())) {
    const made = new Date(manifest.createdAtMs).toISOString();
    process.stdout.write(`${manifest.key}  ${manifest.kind}  ${made}  ${manifest.source}\n`);
  }
}

function show(made: KernelPackage, asJson: boolean): void {
  const { kernelPath, initrdPath, manifest } = made;
  if (asJson) {
    process.stdout.write(`${JSON.stringify({ key: manifest.key, kernelPath, initrdPath })}\n`);
    return;
  }
  process.stdout.write(`${manifest.source}\n  kernel ${kernelPath}\n  initrd ${initrdPath}\n`);
}

async function main(): Promise<number> {
  let options: Options;
  try {
    options = parse();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    process.stderr.write(`lev kernel: ${message}\n\n${USAGE}`);
    return EXIT_USAGE;
  }
  if (options.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  try {
    if (options.list) list();
    else show(await make(options), options.print);
    return 0;
  } catch (thrown) {
    const error = LvError.from(thrown);
    if (error.reason === "INTERNAL") process.stderr.write(`${Bun.inspect(thrown)}\n`);
    process.stderr.write(`lev kernel: ${error.message}\n`);
    return error.reason === "BAD_REQUEST" ? EXIT_USAGE : EXIT_FAILED;
  }
}

process.exitCode = await main();

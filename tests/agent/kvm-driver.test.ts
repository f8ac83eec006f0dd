/**
 * The driver suite with real VMs, on the kernel that LEVERET_DEV_KERNEL names: the
 * same programs as the fake driver's, by busybox in a squashfs made here.
 */
import { afterAll, beforeAll, test } from "bun:test";
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KvmDriver } from "../../agent/runtime/kvm-driver.ts";
import { Jail } from "../../agent/runtime/jail.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { describeDriver } from "./driver-suite.ts";

const kernelPath = process.env["LEVERET_DEV_KERNEL"] ?? "";
const why = whySkipped();
const TIMEOUT_MS = 60_000;

function whySkipped(): string {
  if (kernelPath === "") return "LEVERET_DEV_KERNEL is not set";
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
  } catch {
    return "/dev/kvm does not open";
  }
  return "";
}

async function run(cmd: string[], cwd: string): Promise<string> {
  const child = Bun.spawn({ cmd, cwd, stdio: ["ignore", "pipe", "pipe"] });
  const [code, out, err] = await Promise.all([
    child.exited,
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  if (code !== 0) throw new Error(`${cmd.join(" ")} ended ${code}: ${err}`);
  return out;
}

const SHELL = ["/bin/busybox", "sh", "-c"];

/** The programs of the fake driver, for a real shell. */
function inShell([program = "", ...words]: string[]): string[] {
  switch (program) {
    case "echo":
      return [...SHELL, `echo ${words.join(" ")}`];
    case "exit":
      return [...SHELL, `exit ${words[0]}`];
    case "count":
      return [...SHELL, "i=0; while :; do echo line $i; i=$((i+1)); done"];
    case "stubborn":
      return [...SHELL, "trap '' TERM; echo deaf; while :; do :; done"];
    default:
      return [...SHELL, "exec /bin/busybox sleep 1000"];
  }
}

if (why !== "") test.skip(`kvm-driver with real VMs: ${why}`, () => undefined);
else {
  let files = "";
  let initrdPath = "";
  beforeAll(async () => {
    files = mkdtempSync(join(tmpdir(), "lev-guest-"));
    await run(["sh", "-c", "mkdir -p root/bin && cp /bin/busybox root/bin/"], files);
    await run(["mksquashfs", "root", "root.squashfs", "-quiet", "-no-progress"], files);
    const main = join(import.meta.dir, "..", "..", "agent", "kernel", "main.ts");
    const made = await run(
      [
        "env",
        `LEVERET_CACHE_DIR=${files}`,
        process.execPath,
        main,
        "--kernel",
        kernelPath,
        "--modules",
        "none",
        "--print",
      ],
      files,
    );
    ({ initrdPath } = JSON.parse(made) as { initrdPath: string });
  }, TIMEOUT_MS);
  afterAll(() => rmSync(files, { recursive: true, force: true }));

  const request: Parameters<typeof describeDriver>[1]["request"] = (argv) => ({
    kernelPath,
    initrdPath,
    kernelArgs: "no-kvmapf nokaslr",
    squashfsPath: join(files, "root.squashfs"),
    process: { argv: inShell(argv), env: [], cwd: "/", user: "", stopSignal: 15 },
  });
  const options = { clock: systemClock, log: silentLog() };
  describeDriver(
    "kvm-driver with real VMs, without a jail",
    { make: (dir) => new KvmDriver({ ...options, dir }), request },
    TIMEOUT_MS,
  );
  if (process.getuid?.() !== 0) test.skip("kvm-driver in jails: not root", () => undefined);
  else
    describeDriver(
      "kvm-driver with real VMs in jails",
      {
        make: (dir) =>
          new KvmDriver({
            ...options,
            dir,
            jail: new Jail({ dir, uidBase: 1_900_000_000, cgroups: null }),
          }),
        request,
      },
      TIMEOUT_MS,
    );
}

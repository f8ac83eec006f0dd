/**
 * The guest of `bench vmm`, the same for every VMM: an initramfs whose init mounts the
 * disk with the tools (fio, iperf3 and their libraries, as this host has them) and runs
 * the jobs named on the kernel's command line. It says on the serial port:
 *
 *   BEGIN <job>, RESULT <job> <numbers…>, and DONE at the end
 */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { buildInitramfs } from "../../agent/kernel/initramfs.ts";
import { writeCpio } from "../../agent/kernel/cpio.ts";

export const JOBS = ["randread", "seqread", "send", "receive"] as const;
export type Job = (typeof JOBS)[number];

const TOOLS = ["fio", "iperf3"] as const;
const APPLETS = ["sh", "cut", "tr", "tail", "grep", "rm", "echo"] as const;
export const BLOCK_SECONDS = 3;
export const NET_SECONDS = 3;

const INIT = `#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
for it in $(cat /modules/order 2>/dev/null); do insmod /modules/$it; done
data=vdb
mount -t squashfs -o ro /dev/vda /tools || { data=vda; mount -t squashfs -o ro /dev/vdb /tools; }
mount -t devtmpfs none /tools/dev
mount -t proc none /tools/proc
mount -t sysfs none /tools/sys
mount -t tmpfs none /tools/tmp
for word in $(cat /proc/cmdline); do
  case $word in bench.*) eval "\${word#bench.}" ;; esac
done
export data host port address
[ -z "$address" ] || { ip addr add $address dev eth0; ip link set eth0 up; ip link set lo up; }
for job in $(echo $jobs | tr , ' '); do
  echo "BEGIN $job"
  echo "RESULT $job $(chroot /tools /bin/busybox sh /jobs/$job)"
done
echo DONE
while :; do sleep 1000; done
`;

const fio = (options: string): string =>
  `fio --name=j --filename=/dev/$data --direct=1 --readonly --ioengine=libaio ${options} ` +
  `--time_based --runtime=${BLOCK_SECONDS} --randrepeat=1 --output-format=terse ` +
  // Of the terse format, version 3: KiB read, KiB/s, requests/s.
  `--terse-version=3 2>/tmp/fio.err | cut -d ';' -f 6-8 | tr ';' ' '`;

/** Megabits a second, as the receiving end counted them. */
const iperf = (options: string): string =>
  `iperf3 -c $host -p $port -t ${NET_SECONDS} -f m ${options} >/tmp/iperf 2>&1; ` +
  "grep receiver /tmp/iperf | tr -s ' ' | cut -d ' ' -f 7 || tail -n 1 /tmp/iperf";

const SCRIPTS: Readonly<Record<Job, string>> = {
  randread: fio("--rw=randread --bs=4k --iodepth=16"),
  seqread: fio("--rw=read --bs=128k --iodepth=8"),
  send: iperf(""),
  receive: iperf("-R"),
};

function run(argv: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv, { stdout: "pipe", stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr.toString().trim()}`);
  return stdout.toString();
}

/** Throws an Error that names the Debian package that is missing. */
export function checkTools(): void {
  const missing = TOOLS.filter((tool) => Bun.which(tool) === null);
  if (missing.length > 0) throw new Error(`apt-get install ${missing.join(" ")}`);
}

/** A squashfs of the tools; made again only when one of them is newer. Returns its path. */
export function toolsImage(cacheDir: string): string {
  const programs = TOOLS.map((tool) => Bun.which(tool) ?? "");
  const versions = programs.map((program) => Bun.hash(readFileSync(program)).toString(36));
  const scripts = Bun.hash(JSON.stringify([SCRIPTS, APPLETS])).toString(36);
  const path = join(cacheDir, "bench", `tools-${[...versions, scripts].join("-")}.squashfs`);
  if (existsSync(path)) return path;
  const root = join(cacheDir, "bench", `root-${process.pid}`);
  for (const name of ["bin", "dev", "etc", "proc", "sys", "tmp", "jobs"])
    mkdirSync(join(root, name), { recursive: true });
  const put = (source: string, target: string): void => {
    mkdirSync(dirname(join(root, target)), { recursive: true });
    copyFileSync(source, join(root, target));
    chmodSync(join(root, target), 0o755);
  };
  put("/bin/busybox", "bin/busybox");
  for (const applet of APPLETS) run(["ln", "-sf", "busybox", join(root, "bin", applet)]);
  for (const program of programs) {
    put(program, `bin/${basename(program)}`);
    for (const [, library = ""] of run(["ldd", program]).matchAll(/(\/\S+) \(0x/g))
      put(library, library);
  }
  for (const job of JOBS) writeFileSync(join(root, "jobs", job), SCRIPTS[job]);
  run(["mksquashfs", root, `${path}.new`, "-noappend", "-quiet", "-no-progress", "-comp", "lz4"]);
  run(["rm", "-rf", root]);
  run(["mv", `${path}.new`, path]);
  return path;
}

/** `packagePath`: the initramfs with a stock kernel's modules; null for one that has its drivers built in. */
export function writeBenchInitrd(path: string, packagePath: string | null): string {
  const busybox = new Uint8Array(readFileSync("/bin/busybox"));
  const init = new TextEncoder().encode(INIT);
  const base = packagePath === null ? buildInitramfs(init, []) : readFileSync(packagePath);
  const more = writeCpio([
    { kind: "file", path: "init", mode: 0o755, data: init },
    ...["bin", "proc", "tools"].map(
      (directory) => ({ kind: "directory", path: directory, mode: 0o755 }) as const,
    ),
    { kind: "file", path: "bin/busybox", mode: 0o755, data: busybox },
  ]);
  // The kernel unpacks one archive after the other; a file of the later one replaces.
  writeFileSync(path, Buffer.concat([base, more]));
  return path;
}

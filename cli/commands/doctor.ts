/** `lev doctor`: what this machine lacks, and the command that mends each. */
import { existsSync, readdirSync, readFileSync, statfsSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { settingIn, SHMEM_HUGE_PAGES } from "../../lib/shmem-huge-pages.ts";
import { exactly, parse, type Command } from "../command.ts";
import { out } from "../output.ts";
import { cacheDir, CHECKOUT, versions } from "../paths.ts";
import { mib, table } from "../render.ts";
import { kvmFacts } from "../setup/kvm.ts";
import { missingPackages, type Purpose } from "../setup/packages.ts";
import { freePort } from "../setup/services.ts";

/** "note" = worth knowing, needed by nothing that has no other way. */
export type Check = {
  name: string;
  state: "ok" | "missing" | "note";
  detail: string;
  mend: string;
};

const DISK_NEEDED_MIB = 4096;

export const command: Command = {
  summary: "say what this machine lacks and how to mend it",
  help: `usage: lev doctor

Ends with 1 when something is missing that running machines needs.
`,
  run: async (argv) => {
    exactly(parse(argv, {}).positionals, 0, "");
    const checks = await allChecks();
    await out(doctorTable(checks));
    return checks.some((check) => check.state === "missing") ? 1 : 0;
  },
};

/** Pure. */
export function doctorTable(checks: Check[]): string {
  const rows = checks.map((check) => [check.name, check.state, check.detail, check.mend]);
  return table(["CHECK", "STATE", "FOUND", "MEND WITH"], rows);
}

async function allChecks(): Promise<Check[]> {
  return [
    bunCheck(),
    ...kvmChecks(),
    baselineCheck(readText("/proc/cpuinfo")),
    hugepagesCheck(readText("/proc/meminfo")),
    sharedHugePagesCheck(readText(SHMEM_HUGE_PAGES)),
    await packageCheck("packages: host", "host"),
    await packageCheck("packages: quickstart", "quickstart"),
    noteAtMost(await packageCheck("packages: test", "test")),
    nativeCheck(),
    kernelCheck(),
    ...jailChecks(),
    cgroupCheck(),
    diskCheck(),
    await portCheck("REST port", 8080, "HTTP_PORT"),
    await portCheck("gRPC port", 8090, "GRPC_PORT"),
  ];
}

function ok(name: string, detail: string): Check {
  return { name, state: "ok", detail, mend: "" };
}

function bunCheck(): Check {
  const wanted = versions().bun;
  if (Bun.version === wanted) return ok("bun", Bun.version);
  return {
    name: "bun",
    state: "missing",
    detail: `${Bun.version}, pinned is ${wanted}`,
    mend: "./lev version",
  };
}

function kvmChecks(): Check[] {
  const { cpuFlag, deviceError } = kvmFacts();
  const lab = "machines run in a lab: ./lev lab up";
  return [
    cpuFlag === null
      ? { name: "CPU", state: "note", detail: "neither vmx nor svm", mend: lab }
      : ok("CPU", cpuFlag),
    deviceError === null
      ? ok("/dev/kvm", "opens")
      : { name: "/dev/kvm", state: "note", detail: deviceError, mend: `modprobe kvm; or ${lab}` },
  ];
}

/** As the kernel spells what agent/vmm/cpu-baseline.ts needs beyond x86-64 itself. */
const BASELINE =
  "pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand fsgsbase " +
  "bmi1 avx2 smep bmi2 erms adx smap xsaveopt lahf_lm abm rdtscp";

/** Exported for tests. */
export function baselineCheck(cpuinfo: string): Check {
  const flags = new Set(/^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.trim().split(" "));
  const absent = BASELINE.split(" ").filter((flag) => !flags.has(flag));
  const name = "CPU template baseline";
  if (absent.length === 0) return ok(name, "all of it");
  const detail = `without ${absent.slice(0, 6).join(", ")}${absent.length > 6 ? ", …" : ""}`;
  return { name, state: "note", detail, mend: "machines of the template host only" };
}

/** Only machines that ask for them need any. Exported for tests. */
export function hugepagesCheck(meminfo: string): Check {
  const field = (key: string): number =>
    Number(new RegExp(`^${key}: +(\\d+)`, "m").exec(meminfo)?.[1] ?? 0);
  const free = field("HugePages_Free") - field("HugePages_Rsvd");
  const name = "pages of 2 MiB";
  if (field("Hugepagesize") === 2_048 && free > 0)
    return ok(name, `${free} of ${field("HugePages_Total")} free`);
  return { name, state: "note", detail: "none free", mend: "sysctl vm.nr_hugepages=N" };
}

/** Of all machines' memory; an agent turns `never` into `advise`. Exported for tests. */
export function sharedHugePagesCheck(setting: string): Check {
  const name = "huge pages of guests";
  const set = settingIn(setting);
  if (set === "never") return ok(name, "never; an agent sets advise");
  if (set !== "" && set !== "deny") return ok(name, set);
  const detail = set === "" ? "the kernel has none" : "denied: more page faults";
  return { name, state: "note", detail, mend: `echo advise > ${SHMEM_HUGE_PAGES}` };
}

async function packageCheck(name: string, purpose: Purpose): Promise<Check> {
  const missing = (await missingPackages([purpose])).map((entry) => entry.name);
  if (missing.length === 0) return ok(name, "all there");
  return {
    name,
    state: "missing",
    detail: `${missing.length} not installed`,
    mend: `apt-get install ${missing.join(" ")}`,
  };
}

/** What only the test suite uses is no fault of a host. */
function noteAtMost(check: Check): Check {
  return check.state === "missing" ? { ...check, state: "note" } : check;
}

function nativeCheck(): Check {
  const files = ["libleveret.so", "init", "leveret-jail", "leveret-vmm"];
  const absent = files.filter((file) => !existsSync(join(CHECKOUT, "native", "out", file)));
  if (absent.length === 0) return ok("native parts", files.join(", "));
  return {
    name: "native parts",
    state: "missing",
    detail: `${absent.join(", ")} not built`,
    mend: "bun run build",
  };
}

function kernelCheck(): Check {
  const dir = join(cacheDir(), "kernels");
  const packages = existsSync(dir)
    ? readdirSync(dir).filter((name) => existsSync(join(dir, name, "manifest.json")))
    : [];
  if (packages.length > 0) return ok("guest kernel", `${packages.length} in ${dir}`);
  return { name: "guest kernel", state: "missing", detail: "none", mend: "./lev kernel" };
}

const NAMESPACES = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
/** mount_setattr(2) came last of what the jail uses. */
const JAIL_KERNEL = [5, 12];

/** What jails need of the kernel, and what they use where it is there. */
function jailChecks(): Check[] {
  const [major = 0, minor = 0] = release().split(".").map(Number);
  const [wantMajor = 0, wantMinor = 0] = JAIL_KERNEL;
  const faults = NAMESPACES.filter((name) => !existsSync(`/proc/self/ns/${name}`)).map(
    (name) => `no ${name} namespaces`,
  );
  if (major < wantMajor || (major === wantMajor && minor < wantMinor))
    faults.push(`Linux ${release()}, not ${JAIL_KERNEL.join(".")}`);
  if (!readText("/proc/sys/kernel/seccomp/actions_avail").includes("trap"))
    faults.push("no seccomp filters");
  if (process.getuid?.() !== 0) faults.push("not root");
  const mend = "run the agent as root on a newer kernel; LEVERET_JAIL=off does without";
  const jail: Check =
    faults.length === 0
      ? ok("jail", "namespaces, seccomp, root")
      : { name: "jail", state: "note", detail: faults.join(", "), mend };
  const modules = readText("/sys/kernel/security/lsm");
  if (modules === "" || modules.includes("landlock"))
    return [jail, ok("Landlock", modules === "" ? "unknown: securityfs is not mounted" : "active")];
  const landlock = { name: "Landlock", state: "note" as const, detail: "not active" };
  return [jail, { ...landlock, mend: "boot with lsm=landlock,..." }];
}

/** "" when it cannot be read. */
function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function cgroupCheck(): Check {
  const file = "/sys/fs/cgroup/cgroup.controllers";
  if (existsSync(file)) {
    const offered = readText(file).trim().split(" ");
    const missing = ["cpu", "memory", "pids", "io"].filter((name) => !offered.includes(name));
    if (missing.length === 0) return ok("cgroup v2", "cpu, memory, pids, io");
    const detail = `without ${missing.join(", ")}`;
    return { name: "cgroup v2", state: "note", detail, mend: "enable these controllers" };
  }
  return {
    name: "cgroup v2",
    state: "note",
    detail: "not at /sys/fs/cgroup",
    mend: "boot with systemd.unified_cgroup_hierarchy=1",
  };
}

function diskCheck(): Check {
  let dir = cacheDir();
  while (!existsSync(dir)) dir = join(dir, "..");
  const { bavail, bsize } = statfsSync(dir);
  const freeMib = Math.floor((bavail * bsize) / (1 << 20));
  const detail = `${mib(freeMib)} free under ${dir}`;
  if (freeMib >= DISK_NEEDED_MIB) return ok("disk", detail);
  return {
    name: "disk",
    state: "missing",
    detail,
    mend: "free some space, or set LEVERET_CACHE_DIR",
  };
}

async function portCheck(name: string, port: number, variable: string): Promise<Check> {
  if ((await freePort(port)) === port) return ok(name, `${port} is free`);
  return { name, state: "note", detail: `${port} is taken`, mend: `set ${variable} for the cp` };
}

/**
 * Runs where a VMM runs, in its jail, and tries what a VMM that was taken over would
 * try. `jail-probe.js <machine directory>`: probe.json there says what to do, found.json
 * what came of it. With `confined` the process first gives up what a VMM gives up before
 * its guest runs, so the call that is forbidden is its last.
 */
import { dlopen, ptr } from "bun:ffi";
import { chmodSync, copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { makeFilters } from "../../agent/vmm/seccomp.ts";
import { openShim, Vm } from "../../native/ffi.ts";

export type ProbeInput = {
  confined: boolean;
  /** Paths to read, to write to, and unix sockets to connect to. */
  read: string[];
  write: string[];
  sockets: string[];
  tcpPort: number;
  hostPid: number;
  /** Number and up to four arguments; text is passed by address. */
  calls: { name: string; number: number; args: (number | string)[] }[];
};

/** By name of the attempt: "done", or the errno or error that stopped it. */
export type ProbeFound = {
  attempts: Record<string, string>;
  directories: Record<string, string[]>;
  interfaces: string[];
};

const libc = dlopen("libc.so.6", {
  syscall: { args: ["i64", "u64", "u64", "u64", "u64"], returns: "i64" },
  __errno_location: { args: [], returns: "ptr" },
}).symbols;

function call(number: number, args: readonly (number | string)[]): string {
  const texts = args.map((arg) => (typeof arg === "string" ? Buffer.from(`${arg}\0`) : null));
  const words = [0, 1, 2, 3].map((i) => {
    const text = texts[i];
    return text === null || text === undefined ? Number(args[i] ?? 0) : ptr(text);
  });
  const [a = 0, b = 0, c = 0, d = 0] = words;
  return Number(libc.syscall(number, a, b, c, d)) < 0 ? "refused" : "done";
}

function errorName(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : String(error);
}

async function main(dir: string): Promise<void> {
  const input = JSON.parse(readFileSync(`${dir}/probe.json`, "utf8")) as ProbeInput;
  const found: ProbeFound = { attempts: {}, directories: {}, interfaces: [] };
  const attempt = async (name: string, act: () => unknown): Promise<void> => {
    try {
      await act();
      found.attempts[name] = "done";
    } catch (error) {
      found.attempts[name] = errorName(error);
    }
  };
  if (input.confined) confine();
  for (const path of input.read) await attempt(`read ${path}`, () => readFileSync(path));
  for (const path of input.write) await attempt(`write ${path}`, () => writeFileSync(path, "x"));
  for (const unix of input.sockets)
    await attempt(`connect ${unix}`, () =>
      Bun.connect({ unix, socket: { data: () => undefined } }),
    );
  if (input.tcpPort > 0) {
    const socket = { data: () => undefined };
    const { tcpPort: port } = input;
    await attempt("tcp", () => Bun.connect({ hostname: "127.0.0.1", port, socket }));
  }
  if (input.hostPid > 0) await attempt("signal", () => process.kill(input.hostPid, 0));
  if (!input.confined) {
    copyFileSync(process.execPath, `${dir}/program`);
    chmodSync(`${dir}/program`, 0o700);
    await attempt("execute", () => Bun.spawnSync([`${dir}/program`, "--version"]));
    for (const path of ["/", "/dev", "/proc/self/task"])
      found.directories[path] = readdirSync(path);
    found.interfaces = Object.keys(networkInterfaces());
  }
  for (const { name, number, args } of input.calls) found.attempts[name] = call(number, args);
  writeFileSync(`${dir}/found.json`, JSON.stringify(found));
}

function confine(): void {
  const where = { lowLimit: 3 * 2 ** 30, highBase: 2 ** 32, deviceBase: 3 * 2 ** 30 };
  const config = { vcpus: 1, memoryBytes: 1 << 20, ...where };
  Vm.create(config, openShim(process.env["LEVERET_SHIM"])).confine(makeFilters());
}

await main(process.argv[2] ?? "");

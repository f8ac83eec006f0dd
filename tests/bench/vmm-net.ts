/** The networks of `bench vmm`: a TAP interface, or passt in front of the host's loopback. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { passtArguments } from "../../agent/runtime/passt.ts";
import { VMM_FILES } from "../../proto/vmm.ts";
import { until } from "../kit/until.ts";
import type { Network } from "./vmm-sides.ts";

export type Link = AsyncDisposable & { network: Network };

function ip(...words: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(["ip", ...words], { stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`ip ${words.join(" ")}: ${stderr.toString().trim()}`);
}

/** With an address of ours; gone at the end of the scope. */
export function openTap(): Link {
  const name = `lvb${process.pid}`;
  ip("tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr");
  const link: Link = {
    network: { kind: "tap", name, host: "198.51.100.1", address: "198.51.100.2/30" },
    [Symbol.asyncDispose]: () => {
      ip("link", "delete", name);
      return Promise.resolve();
    },
  };
  ip("addr", "add", "198.51.100.1/30", "dev", name);
  ip("link", "set", name, "up");
  return link;
}

/** One for each guest: it serves a single connection. */
export async function openPasst(directory: string): Promise<Link> {
  const name = join(directory, VMM_FILES.passt);
  const argv = passtArguments("bench", process.getuid?.() ?? 0);
  const child = Bun.spawn(["passt", ...argv.filter((it) => it !== "--no-map-gw")], {
    cwd: directory,
    stdio: ["ignore", "ignore", "ignore"],
  });
  while (!existsSync(name)) {
    if (child.exitCode !== null) throw new Error(`passt ended with ${child.exitCode}`);
    await Bun.sleep(2);
  }
  return {
    network: { kind: "passt", name, host: "10.0.2.2", address: "10.0.2.15/24" },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

/** iperf3's server, one test after the other. */
export async function serveIperf(host: string): Promise<AsyncDisposable & { port: number }> {
  const probe = Bun.listen({ hostname: host, port: 0, socket: { data: () => undefined } });
  const { port } = probe;
  probe.stop(true);
  const child = Bun.spawn(["iperf3", "-s", "-B", host, "-p", `${port}`], {
    stdio: ["ignore", "ignore", "ignore"],
  });
  await until("iperf3 listens", () => listens(port));
  return {
    port,
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

/** By the kernel's table: a connection would be taken for a test. */
function listens(port: number): boolean {
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  return new RegExp(`:${hex} \\S+ 0A `).test(readFileSync("/proc/net/tcp", "utf8"));
}

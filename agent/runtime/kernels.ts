/**
 * Which kernel a machine boots: its own choice inside a directory that the host
 * allows, else the configured one, else the newest guest kernel package.
 */
import { constants } from "node:fs";
import { open, realpath, stat } from "node:fs/promises";
import { isAbsolute, sep } from "node:path";
import { LvError } from "../../proto/errors.ts";
import type { MachineSpec } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { AgentConfig } from "../config.ts";

export type ChosenKernel = { kernelPath: string; initrdPath: string | null; kernelArgs: string };

export type KernelWishes = Pick<MachineSpec, "kernelPath" | "initrdPath" | "kernelArgs">;

export interface Kernels {
  /** Throws KERNEL_NOT_FOUND, KERNEL_INVALID. */
  resolve(wishes: KernelWishes): Promise<ChosenKernel>;
}

type KernelConfig = Pick<AgentConfig, "kernelPath" | "initrdPath" | "kernelDirs" | "kernelArgs">;
type KernelPackage = { kernelPath: string; initrdPath: string | null };

export class HostKernels implements Kernels {
  readonly #config: KernelConfig;
  readonly #findPackage: () => Promise<KernelPackage | null> | KernelPackage | null;

  /** findPackage gives the newest guest kernel package; it is asked at every start. */
  constructor(
    config: KernelConfig,
    findPackage: () => Promise<KernelPackage | null> | KernelPackage | null,
  ) {
    this.#config = config;
    this.#findPackage = findPackage;
  }

  async resolve(wishes: KernelWishes): Promise<ChosenKernel> {
    const fallback = await this.#default();
    const kernelArgs = [this.#config.kernelArgs, wishes.kernelArgs].filter(Boolean).join(" ");
    const initrdPath =
      wishes.initrdPath === ""
        ? (fallback?.initrdPath ?? null)
        : await this.#allowed("Initrd", wishes.initrdPath);
    if (wishes.kernelPath !== "") {
      const kernelPath = await this.#allowed("Kernel", wishes.kernelPath);
      await checkKernel(kernelPath, wishes.kernelPath);
      return complete({ kernelPath, initrdPath, kernelArgs });
    }
    if (fallback === null)
      throw new LvError(
        "KERNEL_NOT_FOUND",
        "This host has no guest kernel: run `lev kernel` on it, or set LEVERET_KERNEL",
      );
    return complete({ kernelPath: fallback.kernelPath, initrdPath, kernelArgs });
  }

  async #default(): Promise<KernelPackage | null> {
    const { kernelPath, initrdPath } = this.#config;
    if (kernelPath === null) {
      const found = await this.#findPackage();
      return found === null ? null : { ...found, initrdPath: initrdPath ?? found.initrdPath };
    }
    await checkKernel(kernelPath, kernelPath);
    return { kernelPath, initrdPath };
  }

  /** The real path of a regular file inside LEVERET_KERNEL_DIRS. */
  async #allowed(what: string, path: string): Promise<string> {
    const dirs = this.#config.kernelDirs;
    const refused = new LvError(
      "KERNEL_NOT_FOUND",
      `${what} "${path}" is not a file inside a directory this host allows: ${dirs.join(":")}`,
    );
    if (!isAbsolute(path) || path.includes("\0")) throw refused;
    const real = await realpath(path).catch(() => null);
    if (real === null || !(await stat(real)).isFile()) throw refused;
    for (const dir of dirs) {
      const base = await realpath(dir).catch(() => null);
      if (base !== null && real.startsWith(base + sep)) return real;
    }
    throw refused;
  }
}

/** Without an initramfs Linux looks for a root file system, finds none and panics. */
function complete(chosen: ChosenKernel): ChosenKernel {
  if (chosen.initrdPath !== null) return chosen;
  throw new LvError(
    "KERNEL_NOT_FOUND",
    `Kernel "${chosen.kernelPath}" has no initramfs, where the guest's init is: set LEVERET_INITRD beside LEVERET_KERNEL on this host, or make a package of both with \`lev kernel\``,
  );
}

const HEADER_BYTES = 0x206;

/** ELF64 for x86-64, or a bzImage (Documentation/arch/x86/boot.rst); the VMM checks the rest. */
async function checkKernel(path: string, shown: string): Promise<void> {
  const file = await open(path, constants.O_RDONLY).catch(() => null);
  if (file === null) throw new LvError("KERNEL_NOT_FOUND", `Kernel "${shown}" cannot be opened`);
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    const { bytesRead } = await file.read(header, 0, HEADER_BYTES, 0);
    const elf = bytesRead > 20 && header.readUInt32BE(0) === 0x7f454c46 && header[4] === 2;
    if (elf && header.readUInt16LE(18) === 62) return;
    const bzImage =
      bytesRead === HEADER_BYTES && header.toString("latin1", 0x202, 0x206) === "HdrS";
    if (bzImage && header.readUInt16LE(0x1fe) === 0xaa55) return;
  } finally {
    await file.close();
  }
  throw new LvError(
    "KERNEL_INVALID",
    `Kernel "${shown}" is not a kernel: it is neither an ELF file for x86-64 nor a bzImage`,
  );
}

/** Can this machine itself be the host, or does it take a lab? */
import { closeSync, openSync, readFileSync } from "node:fs";
import { LvError } from "../../proto/errors.ts";

export type KvmKind = "direct" | "lab";

export type KvmFacts = {
  /** "vmx", "svm" or null: a /dev/kvm may open on a CPU that has neither, and then runs no Debian kernel. */
  cpuFlag: string | null;
  /** null = /dev/kvm opens, otherwise why it does not. */
  deviceError: string | null;
};

export function kvmFacts(): KvmFacts {
  return {
    cpuFlag: virtualizationFlag(readFileSync("/proc/cpuinfo", "utf8")),
    deviceError: tryKvm(),
  };
}

/** Pure: of /proc/cpuinfo's text. */
export function virtualizationFlag(cpuinfo: string): string | null {
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.split(" ") ?? [];
  return flags.find((flag) => flag === "vmx" || flag === "svm") ?? null;
}

function tryKvm(): string | null {
  try {
    closeSync(openSync("/dev/kvm", "r+"));
    return null;
  } catch (error) {
    return error instanceof Error && "code" in error ? String(error.code) : String(error);
  }
}

/** Pure. LEVERET_KVM overrides what was found; throws CONFIG_INVALID on another word. */
export function chooseKvm(override: string, facts: KvmFacts): KvmKind {
  switch (override) {
    case "direct":
    case "lab":
      return override;
    case "":
      return facts.cpuFlag !== null && facts.deviceError === null ? "direct" : "lab";
    default:
      throw new LvError("CONFIG_INVALID", `LEVERET_KVM "${override}" is neither direct nor lab`);
  }
}

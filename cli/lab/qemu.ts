/** The lab's QEMU command line. */
import { join } from "node:path";
import type { LabArtifacts } from "./artifacts.ts";

export type QemuOptions = {
  artifacts: LabArtifacts;
  runDir: string;
  diskPath: string;
  cpus: number;
  memoryMib: number;
};

export const LAB_FILES = {
  env: "boot.env",
  console: "console.log",
  exec: "exec.sock",
  qemu: "qemu.log",
} as const;

/** Software emulation with AMD SVM: the real kvm_amd runs inside, on any machine. */
export function qemuArgv(options: QemuOptions): string[] {
  const { artifacts, runDir } = options;
  return [
    ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
    // Without ERMS, kernels clear and copy by words, not by bytes: 7 and 4 times as fast here,
    // where each step of a string instruction is emulated.
    ["-M", "q35", "-cpu", "max,+svm,-erms", "-accel", "tcg,thread=multi"],
    ["-smp", String(options.cpus), "-m", String(options.memoryMib)],
    ["-kernel", artifacts.kernelPath, "-initrd", artifacts.initramfsPath],
    // No mitigations: they cost much under emulation and protect nobody here.
    ["-append", `console=ttyS0 quiet panic=-1 mitigations=off leveret.run=${runDir}`],
    ["-chardev", `file,id=console,path=${join(runDir, LAB_FILES.console)}`],
    ["-serial", "chardev:console"],
    ["-chardev", `socket,id=exec,path=${join(runDir, LAB_FILES.exec)},server=on,wait=off`],
    ["-serial", "chardev:exec"],
    ["-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"],
    ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="],
    // The disk goes away with the lab: flushing it to the outside would be waste.
    ["-drive", `file=${options.diskPath},format=raw,if=none,id=disk,cache=unsafe,discard=unmap`],
    ["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"],
  ].flat();
}

/** Quoted for the shell that reads boot.env. */
export function shellQuote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

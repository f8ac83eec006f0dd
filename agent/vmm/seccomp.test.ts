/** The programs, run as the kernel would run them. tests/vm/isolation.test.ts has it run them. */
import { expect, test } from "bun:test";
import { KERNEL, SYSCALL } from "../../native/abi.gen.ts";
import { makeFilters } from "./seccomp.ts";

type Call = { number: number; args?: readonly number[]; arch?: number };

const VERDICTS = new Map<number, string>([
  [KERNEL.SECCOMP_RET_ALLOW, "allow"],
  [KERNEL.SECCOMP_RET_TRAP, "trap"],
  [KERNEL.SECCOMP_RET_KILL_PROCESS, "kill"],
  [KERNEL.SECCOMP_RET_ERRNO + 38, "ENOSYS"],
]);

function seccompData({ number, args = [], arch = KERNEL.AUDIT_ARCH_X86_64 }: Call): DataView {
  const data = new DataView(new ArrayBuffer(64));
  data.setUint32(0, number, true);
  data.setUint32(4, arch, true);
  for (const [i, arg] of args.entries()) data.setBigInt64(16 + 8 * i, BigInt(arg), true);
  return data;
}

/** A classic BPF machine with the instructions that seccomp(2) allows and we use. */
function run(program: Uint8Array, call: Call): string {
  const view = new DataView(program.buffer);
  const data = seccompData(call);
  let accumulator = 0;
  for (let at = 0; at < program.byteLength; at += 8) {
    const k = view.getUint32(at + 4, true);
    const jump = (yes: boolean): void => {
      at += 8 * view.getUint8(at + (yes ? 2 : 3));
    };
    const code = view.getUint16(at, true);
    if (code === 0x20) accumulator = data.getUint32(k, true);
    else if (code === 0x54) accumulator = (accumulator & k) >>> 0;
    else if (code === 0x15) jump(accumulator === k);
    else if (code === 0x35) jump(accumulator >= k);
    else if (code === 0x06) return VERDICTS.get(k) ?? `unknown verdict ${k}`;
    else throw new Error(`Unknown instruction ${code}`);
  }
  throw new Error("The program ends without a verdict");
}

const READ = 1;
const READ_EXEC = KERNEL.PROT_EXEC | READ;
const KVM_SET_REGS = 0x4090ae82;
const KVM_CREATE_VM = 0xae01;
const OPENAT = 257;
const PRCTL = 157;
const SECCOMP = 317;
const SIGCHLD = 17;
const THREAD = 0x3d0f00;

/** Call, arguments, verdicts for a vCPU's thread, the I/O thread and any other. */
const CASES: [string, number, number[], string, string, string][] = [
  ["write", SYSCALL.write, [-1], "allow", "allow", "allow"],
  ["getpid", SYSCALL.getpid, [], "allow", "allow", "allow"],
  ["KVM_RUN", SYSCALL.ioctl, [-1, KERNEL.KVM_RUN], "allow", "trap", "allow"],
  ["KVM_SET_REGS", SYSCALL.ioctl, [-1, KVM_SET_REGS], "trap", "trap", "allow"],
  ["KVM_CREATE_VM", SYSCALL.ioctl, [-1, KVM_CREATE_VM], "trap", "trap", "allow"],
  ["TUNSETOFFLOAD", SYSCALL.ioctl, [-1, KERNEL.TUNSETOFFLOAD], "allow", "allow", "allow"],
  ["preadv", SYSCALL.preadv, [-1], "trap", "allow", "allow"],
  ["io_uring_enter", SYSCALL.ioUringEnter, [-1], "trap", "allow", "allow"],
  ["io_uring_setup", SYSCALL.ioUringSetup, [1], "trap", "trap", "trap"],
  ["accept4", SYSCALL.accept4, [-1], "trap", "allow", "allow"],
  ["a unix socket", SYSCALL.socket, [KERNEL.AF_UNIX, 1], "trap", "allow", "allow"],
  ["an internet socket", SYSCALL.socket, [2, 1], "trap", "trap", "trap"],
  // The kernel looks at an int only, and so must the filter.
  ["a socket with high bits", SYSCALL.socket, [2 ** 32 + 2, 1], "trap", "trap", "trap"],
  ["SO_SNDBUF", SYSCALL.setsockopt, [-1, 1, KERNEL.SO_SNDBUF], "allow", "allow", "allow"],
  ["another option", SYSCALL.setsockopt, [-1, 1, KERNEL.SO_SNDBUF + 1], "trap", "trap", "allow"],
  ["plain memory", SYSCALL.mmap, [0, 0, READ], "allow", "allow", "allow"],
  ["executable memory", SYSCALL.mmap, [0, 0, READ_EXEC], "trap", "trap", "allow"],
  ["mprotect", SYSCALL.mprotect, [0, 0, READ_EXEC], "trap", "trap", "allow"],
  ["openat", OPENAT, [-100, 0], "trap", "trap", "allow"],
  ["execve", SYSCALL.execve, [], "trap", "trap", "trap"],
  ["a fork", SYSCALL.clone, [SIGCHLD], "trap", "trap", "trap"],
  ["a thread", SYSCALL.clone, [THREAD], "trap", "trap", "allow"],
  [
    "a thread in a namespace",
    SYSCALL.clone,
    [THREAD | KERNEL.CLONE_NEWNET],
    "trap",
    "trap",
    "trap",
  ],
  ["clone3", SYSCALL.clone3, [], "trap", "trap", "ENOSYS"],
  ["ptrace", SYSCALL.ptrace, [], "trap", "trap", "trap"],
  ["prctl", PRCTL, [], "trap", "trap", "allow"],
  ["seccomp", SECCOMP, [], "trap", "trap", "allow"],
  ["an x32 call", 0x40000000 + SYSCALL.getpid, [], "trap", "trap", "trap"],
];

const filters = makeFilters();

test.each(CASES)("%s", (_name, number, args, vcpu, io, other) => {
  const call = { number, args };
  expect({
    vcpu: run(filters.vcpu, call),
    io: run(filters.io, call),
    other: run(filters.process, call),
  }).toEqual({ vcpu, io, other });
});

test("a call of another architecture ends the process", () => {
  const i386 = 0x40000003;
  for (const program of Object.values(filters))
    expect(run(program, { number: SYSCALL.getpid, arch: i386 })).toBe("kill");
});

test("every number gets a verdict, and threads keep few", () => {
  const allowed = (program: Uint8Array): number =>
    Array.from({ length: 512 }, (_, number) => run(program, { number })).filter(
      (verdict) => verdict === "allow",
    ).length;
  expect(allowed(filters.process)).toBeGreaterThan(400);
  expect(allowed(filters.vcpu)).toBeLessThan(30);
  expect(allowed(filters.io)).toBeLessThan(52);
});

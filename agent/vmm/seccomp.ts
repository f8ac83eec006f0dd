/**
 * What the process may still ask of the kernel once a guest runs, as the programs
 * (struct sock_filter[]) that native/src/seccomp.c puts on its threads.
 *
 *   process    all threads: not what nobody here ever needs (programs, mounts,
 *              namespaces, other processes, sockets but AF_UNIX)
 *   vcpu, io   beyond that, only what their work needs, ioctls by number, never
 *              executable memory
 *
 * A forbidden call traps, and the process ends. Calls of another ABI than x86-64
 * (32-bit entry, x32) end it whatever their number.
 */
import { KERNEL, SYSCALL } from "../../native/abi.gen.ts";
import type { Filters } from "../../native/ffi.ts";

type Syscall = keyof typeof SYSCALL;

/** Where struct seccomp_data holds what a program looks at. */
const DATA = { number: 0, arch: 4, args: 16 } as const;
const X32_BIT = 0x4000_0000;
const ENOSYS = 38;

const ALLOW = KERNEL.SECCOMP_RET_ALLOW;
const TRAP = KERNEL.SECCOMP_RET_TRAP;
const KILL = KERNEL.SECCOMP_RET_KILL_PROCESS;
const MISSING = KERNEL.SECCOMP_RET_ERRNO | ENOSYS;

/**
 * Calls that get a verdict: as they are, or by an argument, of which `mask` must leave
 * one of `values`, or it traps. The low half of an argument is looked at, which is all
 * there is of an int, a request or a flag.
 */
type Rule =
  | { calls: readonly Syscall[]; verdict: number }
  | { call: Syscall; arg: number; mask: number; values: readonly number[] };

type Policy = { rules: readonly Rule[]; otherwise: number };

const DENIED: readonly Syscall[] = [
  ...(["execve", "execveat", "fork", "vfork", "ptrace"] as const),
  ...(["processVmReadv", "processVmWritev", "pidfdGetfd", "kcmp"] as const),
  ...(["mount", "umount2", "pivotRoot", "chroot", "openTree", "moveMount"] as const),
  ...(["fsopen", "fsmount", "fsconfig", "fspick", "mountSetattr"] as const),
  ...(["unshare", "setns", "openByHandleAt", "nameToHandleAt"] as const),
  ...(["bpf", "userfaultfd", "perfEventOpen", "ioUringSetup"] as const),
  ...(["initModule", "finitModule", "deleteModule", "kexecLoad", "kexecFileLoad"] as const),
  ...(["reboot", "swapon", "swapoff", "acct", "iopl", "ioperm", "modifyLdt"] as const),
  ...(["keyctl", "addKey", "requestKey", "syslog", "quotactl", "mknod", "mknodat"] as const),
  ...(["settimeofday", "clockSettime", "clockAdjtime", "adjtimex"] as const),
  ...(["sethostname", "setdomainname", "personality", "fanotifyInit", "socketpair"] as const),
];

/**
 * What both kinds of thread need: to wake others, to free what they hold, to let go of
 * a device's connections and requests at its reset, to end.
 */
const BOTH: readonly Syscall[] = [
  ...(["read", "write", "close", "futex", "madvise", "munmap", "brk"] as const),
  ...(["rtSigreturn", "rtSigprocmask", "exit", "exitGroup", "clockGettime"] as const),
  ...(["getpid", "gettid", "tgkill", "schedYield", "restartSyscall"] as const),
  ...(["epollCtl", "sendto", "sendmsg", "shutdown", "poll", "timerfdSettime"] as const),
];

const IO_ONLY: readonly Syscall[] = [
  ...(["epollWait", "epollPwait", "epollPwait2"] as const),
  ...(["readv", "writev", "pread64", "pwrite64"] as const),
  ...(["preadv", "pwritev", "preadv2", "pwritev2", "fdatasync", "fallocate"] as const),
  ...(["accept4", "connect", "recvfrom", "recvmsg", "getsockopt", "fcntl"] as const),
  ...(["unlink", "getrandom", "ppoll", "ioUringEnter"] as const),
];

const NAMESPACES =
  KERNEL.CLONE_NEWNS |
  KERNEL.CLONE_NEWCGROUP |
  KERNEL.CLONE_NEWUTS |
  KERNEL.CLONE_NEWIPC |
  KERNEL.CLONE_NEWUSER |
  KERNEL.CLONE_NEWPID |
  KERNEL.CLONE_NEWNET;

const whole = (call: Syscall, arg: number, values: readonly number[]): Rule => ({
  call,
  arg,
  mask: 0xffff_ffff,
  values,
});

const UNIX_SOCKETS = whole("socket", 0, [KERNEL.AF_UNIX]);
/** Room for what a guest that is gone left for its host's readers. */
const SEND_ROOM = whole("setsockopt", 2, [KERNEL.SO_SNDBUF]);
const PLAIN_MEMORY: readonly Rule[] = (["mmap", "mprotect"] as const).map((call) => ({
  call,
  arg: 2,
  mask: KERNEL.PROT_EXEC,
  values: [0],
}));

/** The first rule that speaks of a call decides. */
export const POLICIES: Record<keyof Filters, Policy> = {
  process: {
    rules: [
      { calls: DENIED, verdict: TRAP },
      // Its flags are in memory, where no filter can look: libc falls back to clone,
      // which makes threads and nothing else.
      { calls: ["clone3"], verdict: MISSING },
      {
        call: "clone",
        arg: 0,
        mask: KERNEL.CLONE_THREAD | NAMESPACES,
        values: [KERNEL.CLONE_THREAD],
      },
      UNIX_SOCKETS,
    ],
    otherwise: ALLOW,
  },
  vcpu: {
    rules: [
      // First, since it is what nearly every call is.
      whole("ioctl", 1, [KERNEL.KVM_RUN, KERNEL.TUNSETOFFLOAD]),
      { calls: BOTH, verdict: ALLOW },
      SEND_ROOM,
      ...PLAIN_MEMORY,
    ],
    otherwise: TRAP,
  },
  io: {
    rules: [
      whole("ioctl", 1, [KERNEL.TUNSETOFFLOAD]),
      { calls: [...BOTH, ...IO_ONLY], verdict: ALLOW },
      UNIX_SOCKETS,
      SEND_ROOM,
      ...PLAIN_MEMORY,
    ],
    otherwise: TRAP,
  },
};

/** One step of classic BPF; `yes` and `no` are how many steps a comparison skips. */
type Step = { code: number; k: number; yes: number; no: number };
const STEP_BYTES = 8;

const step = (code: number, k: number, yes = 0, no = 0): Step => ({ code, k, yes, no });
const load = (at: number): Step => step(0x20, at);
const mask = (bits: number): Step => step(0x54, bits);
const ifEqual = (k: number, yes: number, no: number): Step => step(0x15, k, yes, no);
const ifAtLeast = (k: number, yes: number, no: number): Step => step(0x35, k, yes, no);
const verdict = (what: number): Step => step(0x06, what);

const each = (values: readonly number[], what: number): Step[] =>
  values.flatMap((value) => [ifEqual(value, 0, 1), verdict(what)]);

function stepsOf(rule: Rule): Step[] {
  if ("calls" in rule)
    return each(
      rule.calls.map((name) => SYSCALL[name]),
      rule.verdict,
    );
  const inside = [
    load(DATA.args + 8 * rule.arg),
    mask(rule.mask),
    ...each(rule.values, ALLOW),
    verdict(TRAP),
  ];
  return [ifEqual(SYSCALL[rule.call], 0, inside.length), ...inside];
}

function assemble({ rules, otherwise }: Policy): Uint8Array<ArrayBuffer> {
  const steps = [
    load(DATA.arch),
    ifEqual(KERNEL.AUDIT_ARCH_X86_64, 1, 0),
    verdict(KILL),
    // Stays loaded to the end: what loads something else also decides.
    load(DATA.number),
    ifAtLeast(X32_BIT, 0, 1),
    verdict(TRAP),
    ...rules.flatMap(stepsOf),
    verdict(otherwise),
  ];
  const view = new DataView(new ArrayBuffer(steps.length * STEP_BYTES));
  for (const [i, { code, k, yes, no }] of steps.entries()) {
    view.setUint16(i * STEP_BYTES, code, true);
    view.setUint8(i * STEP_BYTES + 2, yes);
    view.setUint8(i * STEP_BYTES + 3, no);
    view.setUint32(i * STEP_BYTES + 4, k, true);
  }
  return new Uint8Array(view.buffer);
}

export function makeFilters(): Filters {
  return {
    process: assemble(POLICIES.process),
    vcpu: assemble(POLICIES.vcpu),
    io: assemble(POLICIES.io),
  };
}

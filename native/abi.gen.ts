/**
 * Printed by native/abi_gen.c from leveret.h; made by `bun native/build.ts --abi`.
 * Offsets and sizes in bytes.
 */
export const ABI_VERSION = 3;
export const MAX_VCPUS = 32;
export const MAX_DEVICES = 16;
export const MAX_REGIONS = 4;
export const VM_HUGE_PAGES = 1;
export const DEVICE = {
  net: 1,
  blk: 2,
  console: 3,
  rng: 4,
  balloon: 5,
  vsock: 19,
} as const;
export const BLK_READ_ONLY = 1;
export const NET_TAP = 1;
export const VCPU_STATE = {
  regs: { get: 0, set: 1, bytes: 144 },
  sregs: { get: 2, set: 3, bytes: 312 },
  fpu: { get: 4, set: 5, bytes: 416 },
  lapic: { get: 6, set: 7, bytes: 1024 },
} as const;
export const GET_SUPPORTED_CPUID = 8;
export const SET_CPUID = 9;
export const SET_MSRS = 10;
export const TRANSLATE = 11;
export const TRANSLATION_BYTES = 24;
export const CPUID_ENTRY_BYTES = 40;
export const MSR_ENTRY_BYTES = 16;
export const CONFINE = {
  process: 0,
  vcpu: 1,
  io: 2,
} as const;
export const DEVICE_FAULT = {
  ringAddress: 1,
  availIndex: 2,
  headIndex: 3,
  nextIndex: 4,
  chainLength: 5,
  descAddress: 6,
  descFlags: 7,
  indirectTable: 8,
} as const;
export const EVENT_KIND = {
  powerOff: 1,
  reset: 2,
  debug: 3,
  vcpuFailed: 4,
  deviceFailed: 5,
  hostFailed: 6,
} as const;
export const VM_CONFIG = {
  bytes: 56,
  size: 0,
  vcpus: 4,
  memoryBytes: 8,
  lowLimit: 16,
  highBase: 24,
  deviceBase: 32,
  flags: 40,
  powerPort: 44,
  debugPort: 46,
  powerOff: 48,
  reset: 49,
} as const;
export const REGION = {
  bytes: 24,
  gpa: 0,
  hva: 16,
  len: 8,
} as const;
export const SERIAL_CONFIG = {
  bytes: 24,
  size: 0,
  port: 4,
  gsi: 8,
  outFd: 12,
  outLimit: 16,
} as const;
export const BLK_CONFIG = {
  bytes: 80,
  size: 0,
  gsi: 4,
  fd: 8,
  flags: 12,
  capacity: 16,
  id: 24,
  queues: 44,
  limit: 48,
} as const;
export const BLK_ID_BYTES = 20;
export const LIMIT = {
  bytes: 32,
  bytesRate: 0,
  bytesBurst: 8,
  opsRate: 16,
  opsBurst: 24,
} as const;
export const NET_CONFIG = {
  bytes: 192,
  size: 0,
  gsi: 4,
  fd: 8,
  flags: 12,
  rx: 16,
  tx: 48,
  mac: 80,
  mtu: 86,
  name: 88,
} as const;
export const NET_NAME_BYTES = 104;
export const BALLOON_CONFIG = {
  bytes: 8,
  size: 0,
  gsi: 4,
} as const;
export const BALLOON_STATS = {
  bytes: 96,
  targetPages: 0,
  actualPages: 8,
  guest: 16,
} as const;
export const CONSOLE_CONFIG = {
  bytes: 24,
  size: 0,
  gsi: 4,
  outFd: 8,
  outLimit: 16,
} as const;
export const RNG_CONFIG = {
  bytes: 8,
  size: 0,
  gsi: 4,
} as const;
export const VSOCK_CONFIG = {
  bytes: 120,
  size: 0,
  gsi: 4,
  guestCid: 8,
  path: 16,
} as const;
export const VSOCK_PATH_BYTES = 104;
export const EVENT = {
  bytes: 40,
  kind: 0,
  vcpu: 4,
  device: 8,
  detail: 12,
  value: 16,
  error: 24,
  timeNs: 32,
} as const;
export const VCPU_STATS = {
  bytes: 32,
  exitsPio: 0,
  exitsMmio: 8,
  exitsIntr: 16,
  exitsOther: 24,
} as const;
export const DEVICE_STATS = {
  bytes: 72,
  notifies: 0,
  interrupts: 8,
  requests: 16,
  bytesIn: 24,
  bytesOut: 32,
  malformed: 40,
  dropped: 48,
  errors: 56,
  throttled: 64,
} as const;
export const SYSCALL = {
  accept4: 288,
  acct: 163,
  addKey: 248,
  adjtimex: 159,
  bpf: 321,
  brk: 12,
  chroot: 161,
  clockAdjtime: 305,
  clockGettime: 228,
  clockSettime: 227,
  clone: 56,
  clone3: 435,
  close: 3,
  connect: 42,
  deleteModule: 176,
  epollCtl: 233,
  epollPwait: 281,
  epollPwait2: 441,
  epollWait: 232,
  execve: 59,
  execveat: 322,
  exit: 60,
  exitGroup: 231,
  fallocate: 285,
  fanotifyInit: 300,
  fcntl: 72,
  fdatasync: 75,
  finitModule: 313,
  fork: 57,
  fsconfig: 431,
  fsmount: 432,
  fsopen: 430,
  fspick: 433,
  futex: 202,
  getpid: 39,
  getrandom: 318,
  getsockopt: 55,
  gettid: 186,
  initModule: 175,
  ioUringEnter: 426,
  ioUringSetup: 425,
  ioctl: 16,
  ioperm: 173,
  iopl: 172,
  kcmp: 312,
  kexecFileLoad: 320,
  kexecLoad: 246,
  keyctl: 250,
  madvise: 28,
  mknod: 133,
  mknodat: 259,
  mmap: 9,
  modifyLdt: 154,
  mount: 165,
  mountSetattr: 442,
  moveMount: 429,
  mprotect: 10,
  munmap: 11,
  nameToHandleAt: 303,
  openByHandleAt: 304,
  openTree: 428,
  perfEventOpen: 298,
  personality: 135,
  pidfdGetfd: 438,
  pivotRoot: 155,
  poll: 7,
  ppoll: 271,
  pread64: 17,
  preadv: 295,
  preadv2: 327,
  processVmReadv: 310,
  processVmWritev: 311,
  ptrace: 101,
  pwrite64: 18,
  pwritev: 296,
  pwritev2: 328,
  quotactl: 179,
  read: 0,
  readv: 19,
  reboot: 169,
  recvfrom: 45,
  recvmsg: 47,
  requestKey: 249,
  restartSyscall: 219,
  rtSigprocmask: 14,
  rtSigreturn: 15,
  schedYield: 24,
  sendmsg: 46,
  sendto: 44,
  setdomainname: 171,
  sethostname: 170,
  setns: 308,
  setsockopt: 54,
  settimeofday: 164,
  shutdown: 48,
  socket: 41,
  socketpair: 53,
  swapoff: 168,
  swapon: 167,
  syslog: 103,
  tgkill: 234,
  timerfdSettime: 286,
  umount2: 166,
  unlink: 87,
  unshare: 272,
  userfaultfd: 323,
  vfork: 58,
  write: 1,
  writev: 20,
} as const;
export const KERNEL = {
  AF_UNIX: 1,
  AUDIT_ARCH_X86_64: 3221225534,
  CLONE_NEWCGROUP: 33554432,
  CLONE_NEWIPC: 134217728,
  CLONE_NEWNET: 1073741824,
  CLONE_NEWNS: 131072,
  CLONE_NEWPID: 536870912,
  CLONE_NEWUSER: 268435456,
  CLONE_NEWUTS: 67108864,
  CLONE_THREAD: 65536,
  KVM_RUN: 44672,
  PROT_EXEC: 4,
  SECCOMP_RET_ALLOW: 2147418112,
  SECCOMP_RET_ERRNO: 327680,
  SECCOMP_RET_KILL_PROCESS: 2147483648,
  SECCOMP_RET_TRAP: 196608,
  SO_SNDBUF: 7,
  TUNSETOFFLOAD: 1074025680,
} as const;

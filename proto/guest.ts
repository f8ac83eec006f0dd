/**
 * The channel between the VMM and the guest's init: vsock, guest → host CID 2,
 * port 1024. native/init/protocol.h holds the same numbers; a tidy test compares
 * them. Little endian. A frame is u32 payload length, u16 type, u16 zero, payload.
 *
 * Order: HELLO up; RUN down; STARTED, then any STDOUT/STDERR, then EXIT up; POWEROFF
 * down; init syncs and powers off. ERROR replaces STARTED or EXIT. init powers off
 * by itself when the channel closes. Everything upward is hostile until checked.
 */
export const GUEST_PORT = 1024;
export const GUEST_PROTOCOL = 1;
export const GUEST_HEADER_BYTES = 8;
/** A longer payload ends the machine with GUEST_FAULT. */
export const GUEST_PAYLOAD_MAX_BYTES = 1 << 20;

/** Upward. */
export const GUEST_FRAME = {
  hello: 1, // u32 protocol, u32 zero, u64 microseconds since the guest's boot
  started: 2, // u32 pid
  stdout: 3, // bytes
  stderr: 4, // bytes
  exit: 5, // i32 code, i32 signal; comes after all output
  error: 6, // u32 GUEST_ERROR, UTF-8 message
  log: 7, // UTF-8 line of init itself
} as const;

/** Downward. */
export const HOST_FRAME = {
  run: 16, // run fields, see RUN_FIELD
  signal: 17, // u32 signal number, to the image's process (its process group)
  poweroff: 18, // empty: kill what runs, sync, power off
} as const;

/** RUN's payload is a list of {u16 field, u16 zero, u32 length, bytes}. */
export const RUN_FIELD = {
  argv: 1, // repeated, in order
  env: 2, // repeated, "KEY=value"
  cwd: 3,
  user: 4,
  hostname: 5,
  seed: 6, // bytes credited to the kernel's entropy pool
  clock: 7, // u64 nanoseconds since the epoch, sets the wall clock
  network: 8, // repeated: "<interface> <address>/<prefix> <gateway>", IPv4
  resolv: 9, // what /etc/resolv.conf says; absent = the image's own
} as const;

export const GUEST_ERROR = {
  internal: 1,
  rootfs: 2, // disks could not be mounted
  user: 3, // user or group not found in the image
  cwd: 4, // working directory could not be made or entered
  execNotFound: 5, // as a shell's 127
  execDenied: 6, // as a shell's 126
} as const;

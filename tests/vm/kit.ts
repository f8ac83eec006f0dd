/** Machine directories, VMM processes and a control client for tests and benchmarks. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildInitramfs } from "../../agent/kernel/initramfs.ts";
import { OutputLogReader } from "../../lib/output-log-reader.ts";
import {
  VMM_FILES,
  type VmmLastError,
  type VmmPush,
  type VmmReply,
  type VmmSpec,
  type VmmStatus,
} from "../../proto/vmm.ts";

const FROM_SOURCE = [process.execPath, join(import.meta.dir, "../../agent/vmm/main.ts")];
const INIT = join(import.meta.dir, "../../native/out/init");
const GUESTS = join(import.meta.dir, "../../native/out/guests");
const BARE_ENTRY = 0x100000;
const PAGE_BYTES = 4_096;

/** The development kernel takes one vCPU and these arguments. */
export const DEV_KERNEL_ARGS = "no-kvmapf nokaslr";

export function makeSpec(change: Partial<VmmSpec> = {}): VmmSpec {
  return {
    version: 1,
    machineId: "mch_00000000000000000000",
    incarnation: 1,
    cpus: 1,
    memoryMib: 128,
    kernelPath: "/nonexistent/vmlinux",
    initrdPath: null,
    kernelArgs: DEV_KERNEL_ARGS,
    disks: [],
    networks: [],
    process: { argv: ["/bin/true"], env: [], cwd: "/", user: "", stopSignal: 15 },
    hostname: "guest",
    resolvConf: "",
    outputLimitBytes: 1 << 20,
    initTimeoutMs: 20_000,
    ...change,
  };
}

/** A directory that is gone at the end of the scope. */
export class TemporaryDirectory implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "leveret-vm-"));

  make(name: string): string {
    const path = join(this.path, name);
    mkdirSync(path);
    return path;
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** An initramfs with nothing but init: for kernels with their drivers built in. */
export function writePlainInitrd(path: string): string {
  writeFileSync(path, buildInitramfs(new Uint8Array(readFileSync(INIT)), []));
  return path;
}

/** A squashfs of busybox with the applets named; needs mksquashfs and busybox-static. */
/** A guest of native/guests as a kernel file: what boots on any /dev/kvm, and does little. */
export function writeBareKernel(path: string, guest: string): string {
  const code = readFileSync(join(GUESTS, `${guest}.bin`));
  const file = Buffer.alloc(PAGE_BYTES + code.length);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  file.writeUInt16LE(2, 16); // EXEC
  file.writeUInt16LE(62, 18); // x86-64
  file.writeBigUInt64LE(BigInt(BARE_ENTRY), 24);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  file.writeUInt32LE(1, 64); // PT_LOAD
  file.writeBigUInt64LE(BigInt(PAGE_BYTES), 64 + 8);
  file.writeBigUInt64LE(BigInt(BARE_ENTRY), 64 + 24);
  file.writeBigUInt64LE(BigInt(code.length), 64 + 32);
  file.writeBigUInt64LE(BigInt(code.length), 64 + 40);
  file.set(code, PAGE_BYTES);
  writeFileSync(path, file);
  return path;
}

export function writeBusyboxImage(directory: string, applets: readonly string[]): string {
  const root = join(directory, "busybox-root");
  const path = join(directory, "busybox.squashfs");
  mkdirSync(join(root, "bin"), { recursive: true });
  mkdirSync(join(root, "etc"));
  writeFileSync(join(root, "etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/web:/bin/sh\n");
  writeFileSync(join(root, "etc/group"), "root:x:0:\nweb:x:33:\nextra:x:44:web\n");
  run(["cp", "/bin/busybox", join(root, "bin/busybox")]);
  for (const applet of applets) run(["ln", "-s", "busybox", join(root, "bin", applet)]);
  run(["mksquashfs", root, path, "-noappend", "-quiet", "-no-progress", "-all-root"]);
  return path;
}

/** A squashfs of one C program, built static, as /program; needs gcc and mksquashfs. */
export function writeProgramImage(directory: string, source: string): string {
  const root = join(directory, "program-root");
  const path = join(directory, "program.squashfs");
  mkdirSync(root);
  run(["gcc", "-static", "-O2", "-Wall", "-Wextra", "-o", join(root, "program"), source]);
  run(["mksquashfs", root, path, "-noappend", "-quiet", "-no-progress", "-all-root"]);
  return path;
}

function run(argv: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(argv, { stdout: "ignore", stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr.toString()}`);
}

/** A VMM process on a machine directory; killed at the end of the scope. */
export class VmmProcess implements AsyncDisposable {
  readonly directory: string;
  readonly #process: Bun.Subprocess<"ignore", "ignore", "pipe">;
  readonly #stderr: Promise<string>;

  /** spec null = the test writes it later, or never. */
  constructor(
    directory: string,
    spec: VmmSpec | string | null,
    env: Record<string, string> = {},
    program: readonly string[] = FROM_SOURCE,
  ) {
    this.directory = directory;
    const text = typeof spec === "string" ? spec : JSON.stringify(spec);
    if (spec !== null) writeFileSync(join(directory, VMM_FILES.spec), text);
    this.#process = Bun.spawn([...program, directory], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
      env: { ...process.env, ...env },
    });
    this.#stderr = new Response(this.#process.stderr).text();
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** A process that a signal ended has no exit code. */
  get #isOver(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  get exited(): Promise<number> {
    return this.#process.exited;
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  /** Its exit code, the last error it printed and the last status it left. */
  async ended(): Promise<{ code: number; lastError: VmmLastError | null; status: VmmStatus }> {
    const code = await this.#process.exited;
    const last = (await this.#stderr).trimEnd().split("\n").at(-1) ?? "";
    return {
      code,
      lastError: last.startsWith("{") ? (JSON.parse(last) as VmmLastError) : null,
      status: this.status(),
    };
  }

  status(): VmmStatus {
    return JSON.parse(readFileSync(join(this.directory, VMM_FILES.status), "utf8")) as VmmStatus;
  }

  /** All output so far: "stream:text" of each record, neighbours of one stream joined. */
  output(afterSequence = 0): string[] {
    const reader = new OutputLogReader(join(this.directory, VMM_FILES.output), afterSequence);
    const found: { stream: number; text: string }[] = [];
    for (const record of reader.read(16 << 20)) {
      const text = Buffer.from(record.data).toString();
      const last = found.at(-1);
      if (last?.stream === record.stream) last.text += text;
      else found.push({ stream: record.stream, text });
    }
    reader.close();
    return found.map(({ stream, text }) => `${stream}:${text}`);
  }

  /**
   * Connects once somebody listens (a stale socket of a run before may be there).
   * Rejects when the process ends first.
   */
  async control(): Promise<ControlClient> {
    const path = join(this.directory, VMM_FILES.control);
    for (;;) {
      const client = existsSync(path) ? await ControlClient.tryConnect(path) : null;
      if (client !== null) return client;
      if (this.#isOver)
        throw new Error(`The VMM ended with ${this.#process.exitCode}: ${await this.#stderr}`);
      await Bun.sleep(2);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isOver) this.#process.kill("SIGKILL");
    await this.#process.exited;
  }
}

export class ControlClient {
  readonly statuses: VmmStatus[] = [];
  readonly replies: VmmReply[] = [];
  closed = false;
  #wake: () => void = () => undefined;
  #line = "";
  #end: () => void = () => undefined;
  #write: (text: string) => void = () => undefined;

  /** Null when nobody listens. */
  static async tryConnect(path: string): Promise<ControlClient | null> {
    try {
      return await ControlClient.connect(path);
    } catch {
      return null; // the caller tries again while the VMM lives
    }
  }

  static async connect(path: string): Promise<ControlClient> {
    const client = new ControlClient();
    const socket = await Bun.connect({
      unix: path,
      socket: {
        data: (_, chunk) => client.#data(chunk.toString()),
        close: () => {
          client.closed = true;
          client.#wake();
        },
      },
    });
    client.#end = () => void socket.end();
    client.#write = (text) => void socket.write(text);
    return client;
  }

  #data(text: string): void {
    const lines = (this.#line + text).split("\n");
    this.#line = lines.pop() ?? "";
    for (const line of lines) {
      const message = JSON.parse(line) as VmmPush | VmmReply;
      if ("status" in message) this.statuses.push(message.status);
      else this.replies.push(message);
    }
    this.#wake();
  }

  close(): void {
    this.#end();
  }

  send(request: object): void {
    this.#write(`${JSON.stringify(request)}\n`);
  }

  /** Resolves at a phase or, with false, when the connection ends without it. */
  async reached(phase: VmmStatus["phase"]): Promise<boolean> {
    return this.until(() => this.statuses.some((status) => status.phase === phase));
  }

  async until(condition: () => boolean): Promise<boolean> {
    while (!condition()) {
      if (this.closed) return false;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return true;
  }
}

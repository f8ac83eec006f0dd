/** Blobs both ways over many vsock connections at once, on real Linux (see dev-kernel.test.ts). */
import { afterAll, beforeAll, expect } from "bun:test";
import { join } from "node:path";
import { VMM_FILES } from "../../proto/vmm.ts";
import { TemporaryDirectory, VmmProcess, writeProgramImage } from "./kit.ts";
import { linuxGuests } from "./linux-guests.ts";

const guests = linuxGuests("vsock", ["/usr/bin/gcc"]);
const { missing, guestTest } = guests;

const WORKERS = 50;
const PORT = 7_000;
/** Not a multiple of anything; in a lab both ends make and hash them slowly. */
const BLOB_BYTES = guests.isStock ? 70_001 : 700_001;
const TIMEOUT_MS = guests.limit(60_000);

const temporary = new TemporaryDirectory();
let rootfs = "";
let initrdPath = "";
beforeAll(() => {
  if (missing !== "") return;
  rootfs = writeProgramImage(temporary.path, join(import.meta.dir, "vsock_worker.c"));
  initrdPath = guests.initrd(temporary.path);
});
afterAll(() => temporary[Symbol.dispose]());

function start(name: string, argv: string[]): VmmProcess {
  const disks = [{ path: rootfs, readOnly: true, id: "rootfs" }];
  const program = { argv: ["/program", ...argv], env: [], cwd: "/", user: "", stopSignal: 9 };
  const spec = guests.spec({ initrdPath, disks, process: program });
  return new VmmProcess(temporary.make(name), spec);
}

/** As `fill` of vsock_worker.c. */
function blob(seed: number, bytes = BLOB_BYTES): Uint8Array {
  let state = seed;
  return new Uint8Array(bytes).map(() => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    return state >>> 24;
  });
}

const hash = (bytes: Uint8Array): string => Bun.hash.xxHash64(bytes).toString(16);

/** Writes all of it as the other end takes it, then half-closes. */
class Sender {
  #rest: Uint8Array;
  constructor(bytes: Uint8Array) {
    this.#rest = bytes;
  }
  pump(socket: Bun.Socket<unknown>): void {
    if (this.#rest.length === 0) return;
    this.#rest = this.#rest.subarray(socket.write(this.#rest));
    if (this.#rest.length === 0) socket.shutdown();
  }
}

type Peer = { chunks: Uint8Array[]; sender: Sender | null };

guestTest(
  `${WORKERS} workers of the guest and the host exchange blobs, and every byte arrives`,
  async () => {
    const argv = ["workers", `${WORKERS}`, `${PORT}`, `${BLOB_BYTES}`];
    await using vmm = start("workers", argv);
    const received = new Map<number, string>();
    const all = Promise.withResolvers<void>();
    const note = ({ chunks }: Peer): void => {
      const bytes = Buffer.concat(chunks);
      received.set(bytes.readUInt32LE(), hash(bytes.subarray(4)));
      if (received.size === WORKERS) all.resolve();
    };
    const listener = Bun.listen<Peer>({
      unix: join(vmm.directory, `${VMM_FILES.vsock}_${PORT}`),
      socket: {
        open: (socket) => void (socket.data = { chunks: [], sender: null }),
        data: (socket, chunk) => {
          const { data } = socket;
          data.chunks.push(Uint8Array.from(chunk));
          if (data.sender !== null) return;
          // The guest's number comes first; our blob goes as soon as it is there.
          const head = Buffer.concat(data.chunks);
          if (head.length < 4) return;
          data.sender = new Sender(blob(head.readUInt32LE() + 1_000_000));
          data.sender.pump(socket);
        },
        drain: (socket) => socket.data.sender?.pump(socket),
        end: (socket) => note(socket.data),
        // Only that comes when our half was closed before theirs.
        close: (socket) => note(socket.data),
      },
      allowHalfOpen: true,
    });
    expect((await vmm.ended()).status).toMatchObject({ phase: "ended", exitCode: 0 });
    await all.promise;
    listener.stop(true);
    for (let i = 0; i < WORKERS; i += 1) expect(received.get(i)).toBe(hash(blob(i)));
  },
  TIMEOUT_MS,
);

guestTest(
  "the host's connections to a guest's listener bring back what they send",
  async () => {
    const count = 20;
    await using vmm = start("echo", ["echo", `${count}`, `${PORT}`]);
    const client = await vmm.control();
    await client.reached("running");
    while (!vmm.output().join("").includes("listening")) await Bun.sleep(5);
    const path = join(vmm.directory, VMM_FILES.vsock);
    // A program reads as fast as they come, beside the test's own loop.
    const program = join(temporary.path, "program-root/program");
    const argv = [program, "dial", `${count}`, `${PORT}`, `${BLOB_BYTES}`, path];
    const dial = Bun.spawn(argv, { stdout: "ignore", stderr: "inherit" });
    expect(await dial.exited).toBe(0);
    expect((await vmm.ended()).status).toMatchObject({ phase: "ended", exitCode: 0 });
  },
  TIMEOUT_MS,
);

guestTest(
  "what the guest sent is there for a host that reads only when the guest is gone",
  async () => {
    const count = 4;
    await using vmm = start("pour", ["pour", `${count}`, `${PORT}`]);
    const peers: Bun.Socket<Uint8Array[]>[] = [];
    const { promise: closed, resolve } = Promise.withResolvers<void>();
    let open = count;
    const listener = Bun.listen<Uint8Array[]>({
      unix: join(vmm.directory, `${VMM_FILES.vsock}_${PORT}`),
      socket: {
        open: (socket) => {
          socket.data = [];
          socket.pause();
          peers.push(socket);
        },
        data: (socket, chunk) => void socket.data.push(Uint8Array.from(chunk)),
        close: () => {
          open -= 1;
          if (open === 0) resolve();
        },
      },
    });
    expect((await vmm.ended()).status).toMatchObject({ phase: "ended", exitCode: 0 });
    const said =
      vmm
        .output()
        .join("")
        .match(/\d+(?=\n)/g) ?? [];
    expect(open).toBe(count);
    for (const peer of peers) peer.resume();
    await closed;
    listener.stop(true);
    const got = peers.map(({ data }) => Buffer.concat(data));
    const lengths = (of: number[]): number[] => of.toSorted((a, b) => a - b);
    expect(lengths(got.map(({ length }) => length))).toEqual(lengths(said.map(Number)));
    for (const bytes of got) expect(hash(bytes)).toBe(hash(blob(0, bytes.length)));
  },
  TIMEOUT_MS,
);

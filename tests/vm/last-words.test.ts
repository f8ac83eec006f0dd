/** The last output of guests that end by themselves, on real Linux (see linux-guests.ts). */
import { afterAll, beforeAll, expect } from "bun:test";
import { TemporaryDirectory, VmmProcess, writeBusyboxImage } from "./kit.ts";
import { linuxGuests } from "./linux-guests.ts";

const guests = linuxGuests("last-words");
const { missing, guestTest } = guests;
const TIMEOUT_MS = guests.limit(20_000);
const LINES = 20_000;

const temporary = new TemporaryDirectory();
let rootfs = "";
let initrdPath = "";
beforeAll(() => {
  if (missing !== "") return;
  rootfs = writeBusyboxImage(temporary.path, ["sh", "seq", "sleep", "poweroff", "reboot"]);
  initrdPath = guests.initrd(temporary.path);
});
afterAll(() => temporary[Symbol.dispose]());

for (const last of ["poweroff", "reboot"])
  guestTest(
    `all output before a ${last} is in the log`,
    async () => {
      const argv = ["/bin/sh", "-c", `seq ${LINES}; ${last}; sleep 100`];
      const program = { argv, env: ["PATH=/bin"], cwd: "/", user: "", stopSignal: 9 };
      const disks = [{ path: rootfs, readOnly: true, id: "rootfs" }];
      const spec = guests.spec({ initrdPath, disks, process: program });
      await using vmm = new VmmProcess(temporary.make(last), spec);
      expect((await vmm.ended()).status).toMatchObject({ phase: "ended", reason: "GUEST_FAULT" });
      const all = Array.from({ length: LINES }, (_, i) => `${i + 1}\n`).join("");
      const got = vmm.output().join("");
      expect(got.length).toBe(`1:${all}`.length);
      expect(got === `1:${all}`).toBe(true);
    },
    TIMEOUT_MS,
  );

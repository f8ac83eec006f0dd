/** A machine's passt ends with its VMM, whatever became of the agent that started it. */
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { macOf, killPasst, passtsOf, startPasst } from "../../agent/runtime/passt.ts";
import { systemClock } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import { MachineId } from "../../proto/ids.ts";
import { VMM_FILES } from "../../proto/vmm.ts";

const program = Bun.which("passt");
if (program === null) process.stderr.write("tests/agent/passt: skipped: no passt\n");
const passtTest = test.skipIf(program === null);
const uid = process.getuid?.() ?? 0;

async function gone(id: string): Promise<void> {
  // The test's own time-out bounds it.
  while (passtsOf(id).length > 0) await Bun.sleep(2);
}

/** As a VMM does it: the socket is there a moment before anybody listens on it. */
async function connect(unix: string): Promise<Bun.Socket> {
  for (;;) {
    try {
      return await Bun.connect({ unix, socket: { data: () => undefined } });
    } catch (error) {
      const refused = error instanceof Error && "code" in error && error.code === "ECONNREFUSED";
      if (!refused) throw error;
    }
    await Bun.sleep(2);
  }
}

passtTest("passt serves one VMM and ends when that is gone", async () => {
  const id = MachineId.create();
  const dir = mkdtempSync(join(tmpdir(), "leveret-passt-"));
  try {
    const { device, resolvConf } = await startPasst(program ?? "", id, dir, uid, systemClock);
    expect(device).toMatchObject({ kind: "passt", name: join(dir, VMM_FILES.passt) });
    expect(resolvConf).toBe("nameserver 10.0.2.3\n");
    expect(passtsOf(id).length).toBe(1);
    const vmm = await connect(device.name);
    vmm.end();
    await gone(id);
  } finally {
    killPasst(id);
    rmSync(dir, { recursive: true });
  }
});

passtTest("one that was left behind makes room for the next; undoing is safe twice", async () => {
  const id = MachineId.create();
  const dir = mkdtempSync(join(tmpdir(), "leveret-passt-"));
  try {
    await startPasst(program ?? "", id, dir, uid, systemClock);
    const [left] = passtsOf(id);
    await startPasst(program ?? "", id, dir, uid, systemClock);
    const now = passtsOf(id);
    expect(now.length).toBe(1);
    expect(now[0]?.pid).not.toBe(left?.pid);
    killPasst(id);
    killPasst(id);
    await gone(id);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("a passt that cannot start is a fault of the VMM, by name", async () => {
  const dir = mkdtempSync(join(tmpdir(), "leveret-passt-"));
  try {
    const failed = startPasst("/bin/false", "mch_1", dir, uid, systemClock);
    const error = await failed.catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(LvError);
    expect(String(error)).toContain("passt ended with 1");
    expect(existsSync(join(dir, VMM_FILES.passt))).toBe(false);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("an address stays with its machine", () => {
  expect(macOf("mch_1")).toBe(macOf("mch_1"));
  expect(macOf("mch_1")).not.toBe(macOf("mch_2"));
  expect(macOf("mch_1")).toMatch(/^02(:[0-9a-f]{2}){5}$/);
});

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { failure } from "../../tests/kit/failure.ts";
import { HostKernels } from "./kernels.ts";

function elf(): Buffer {
  const header = Buffer.alloc(64);
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  header.writeUInt16LE(62, 18);
  return header;
}
function bzImage(): Buffer {
  const header = Buffer.alloc(1024);
  header.writeUInt16LE(0xaa55, 0x1fe);
  header.write("HdrS", 0x202, "latin1");
  return header;
}
const NONE = { kernelPath: "", initrdPath: "", kernelArgs: "" };

describe("the kernel of a machine", () => {
  let dir = "";
  const at = (name: string): string => join(dir, name);
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), "lev-kernels-"));
    mkdirSync(at("allowed"));
    writeFileSync(at("allowed/vmlinux"), elf());
    writeFileSync(at("allowed/bzImage"), bzImage());
    writeFileSync(at("allowed/text"), "root:x:0:0\n");
    writeFileSync(at("allowed/arm"), elf().fill(183, 18, 19));
    writeFileSync(at("allowed/initrd"), "070701");
    writeFileSync(at("outside"), elf());
    symlinkSync(at("outside"), at("allowed/link"));
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  const kernels = (over: Partial<ConstructorParameters<typeof HostKernels>[0]> = {}) =>
    new HostKernels(
      {
        kernelPath: null,
        initrdPath: null,
        kernelDirs: [at("allowed"), at("absent")],
        kernelArgs: "",
        ...over,
      },
      () => ({ kernelPath: "/package/vmlinux", initrdPath: "/package/initrd" }),
    );

  test("is the newest package's by default, with both sides' arguments", async () => {
    expect(
      await kernels({ kernelArgs: "host=1" }).resolve({ ...NONE, kernelArgs: "own=1" }),
    ).toEqual({
      kernelPath: "/package/vmlinux",
      initrdPath: "/package/initrd",
      kernelArgs: "host=1 own=1",
    });
  });

  test("is the configured one when there is one", async () => {
    const files = { kernelPath: at("outside"), initrdPath: at("allowed/initrd") };
    expect(await kernels(files).resolve(NONE)).toEqual({ ...files, kernelArgs: "" });
  });

  test("needs an initramfs: LEVERET_KERNEL alone is refused, unless the machine has its own", async () => {
    const alone = kernels({ kernelPath: at("outside") });
    for (const wishes of [NONE, { ...NONE, kernelPath: at("allowed/vmlinux") }]) {
      const error = await failure(alone.resolve(wishes));
      expect(error.reason).toBe("KERNEL_NOT_FOUND");
      expect(error.message).toContain("set LEVERET_INITRD beside LEVERET_KERNEL");
    }
    const own = await alone.resolve({ ...NONE, initrdPath: at("allowed/initrd") });
    expect(own.initrdPath).toBe(at("allowed/initrd"));
  });

  test("is the machine's own, ELF or bzImage, with the host's initramfs", async () => {
    for (const name of ["vmlinux", "bzImage"])
      expect(await kernels().resolve({ ...NONE, kernelPath: at(`allowed/${name}`) })).toMatchObject(
        { kernelPath: at(`allowed/${name}`), initrdPath: "/package/initrd" },
      );
    const own = { ...NONE, kernelPath: at("allowed/vmlinux"), initrdPath: at("allowed/initrd") };
    expect((await kernels().resolve(own)).initrdPath).toBe(at("allowed/initrd"));
  });

  for (const name of ["outside", "allowed/link", "allowed/../outside", "allowed/no", "allowed"])
    test(`is not taken from "${name}"`, async () => {
      const error = await failure(kernels().resolve({ ...NONE, kernelPath: at(name) }));
      expect(error.reason).toBe("KERNEL_NOT_FOUND");
      expect(error.message).toContain(at(name));
    });

  test("may not be named relatively", async () => {
    const error = await failure(kernels().resolve({ ...NONE, kernelPath: "allowed/vmlinux" }));
    expect(error.reason).toBe("KERNEL_NOT_FOUND");
  });

  for (const name of ["text", "arm"])
    test(`is refused when the file is not one: ${name}`, async () => {
      const error = await failure(
        kernels().resolve({ ...NONE, kernelPath: at(`allowed/${name}`) }),
      );
      expect(error).toMatchObject({
        reason: "KERNEL_INVALID",
        message: `Kernel "${at(`allowed/${name}`)}" is not a kernel: it is neither an ELF file for x86-64 nor a bzImage`,
      });
    });

  test("a host without any says what to do", async () => {
    const bare = new HostKernels(
      { kernelPath: null, initrdPath: null, kernelDirs: [], kernelArgs: "" },
      () => null,
    );
    expect((await failure(bare.resolve(NONE))).message).toContain("lev kernel");
  });
});

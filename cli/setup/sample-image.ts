/**
 * A small real image without a download: Debian's busybox-static and this
 * machine's os-release, packed as an OCI image by the image pipeline's own packer
 * and pushed with skopeo.
 */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { bun } from "./prepare.ts";
import { mustRun } from "./process.ts";

const APPLETS = ["sh", "cat", "echo", "env", "head", "id", "ls", "nproc", "ps", "sleep", "uname"];

export type PushedImage = { reference: string; digest: string };

/** Makes the image in `runDir` and pushes it to `host` (plain HTTP on loopback). */
export async function pushSampleImage(
  runDir: string,
  host: string,
  signal: AbortSignal,
): Promise<PushedImage> {
  const rootfs = join(runDir, "sample-rootfs");
  const layout = join(runDir, "sample-image");
  makeRootfs(rootfs);
  await bun("pack the sample image", packArguments(rootfs, layout), signal);
  const reference = `${host}/leveret/hello:1`;
  const digestFile = join(runDir, "sample-digest");
  await mustRun(
    "push the sample image",
    [
      "skopeo",
      "copy",
      "--quiet",
      "--insecure-policy",
      "--dest-tls-verify=false",
      "--digestfile",
      digestFile,
      `oci:${layout}`,
      `docker://${reference}`,
    ],
    { signal },
  );
  return { reference, digest: readFileSync(digestFile, "utf8").trim() };
}

function packArguments(rootfs: string, layout: string): string[] {
  return [
    "agent/images/pack-main.ts",
    "--rootfs",
    rootfs,
    "--output",
    layout,
    "--cmd",
    "/bin/sh",
    "--env",
    "PATH=/bin",
    "--workdir",
    "/",
  ];
}

function makeRootfs(root: string): void {
  for (const dir of ["bin", "etc", "root", "tmp", "proc", "sys", "dev"])
    mkdirSync(join(root, dir), { recursive: true });
  chmodSync(join(root, "tmp"), 0o1777);
  copyFileSync("/bin/busybox", join(root, "bin", "busybox"));
  chmodSync(join(root, "bin", "busybox"), 0o755);
  for (const applet of APPLETS) symlinkSync("busybox", join(root, "bin", applet));
  if (existsSync("/etc/os-release"))
    copyFileSync("/etc/os-release", join(root, "etc", "os-release"));
  writeFileSync(join(root, "etc", "passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  writeFileSync(join(root, "etc", "group"), "root:x:0:\n");
}

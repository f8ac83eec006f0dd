/** lev images, pull, load, image and login as processes, with a registry and a real image store. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ImageStore } from "../../agent/images/builder.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { testImage } from "../kit/images.ts";
import { FakeRegistry, gzipLayer } from "../kit/images/fake-registry.ts";
import { makeTar } from "../kit/images/layers.ts";
import { runTool } from "../kit/images/run.ts";
import { TEST_TOKEN } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { World } from "../kit/world.ts";

setDefaultTimeout(60_000);

const MAIN = join(import.meta.dir, "..", "..", "cli", "main.ts");

let scratch: string;
let registry: FakeRegistry;
let world: World;
beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), "lev-cli-images-"));
  registry = new FakeRegistry();
  const images = new ImageStore({
    dir: scratch,
    config: { mirrors: [], insecure: [] },
    log: silentLog(),
    clock: systemClock,
  });
  world = await World.create({ mtls: true, agent: { images } });
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  await registry[Symbol.asyncDispose]();
  await rm(scratch, { recursive: true, force: true });
});

function start(argv: string[], stdin: "ignore" | Blob = "ignore") {
  return Bun.spawn([process.execPath, "--no-env-file", MAIN, ...argv], {
    env: { ...process.env, LEVERET_URL: world.plane.httpUrl, LEVERET_TOKEN: TEST_TOKEN },
    stdin,
    stdout: "pipe",
    stderr: "pipe",
  });
}

async function lev(argv: string[], stdin: "ignore" | Blob = "ignore") {
  const child = start(argv, stdin);
  const [code, stdout, stderr] = await Promise.all([
    child.exited,
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code, stdout: stdout.trimEnd(), stderr: stderr.trimEnd() };
}

async function ok(argv: string[], stdin: "ignore" | Blob = "ignore"): Promise<string> {
  const result = await lev(argv, stdin);
  expect([argv, result.code, result.stderr]).toEqual([argv, 0, expect.any(String)]);
  return result.stdout;
}

const push = (name: string) =>
  registry.addImage(name, [
    gzipLayer(makeTar([{ name: `${name}.txt`, kind: "file", data: name }])),
  ]);

test("an image is pulled, listed, pinned and removed", async () => {
  const { reference, digest } = push("plain");
  expect(await ok(["pull", "--host", "host-0", reference])).toStartWith(digest);
  const listed = await ok(["images"]);
  expect(listed).toContain(reference);
  expect(listed).toMatch(/^IMAGE +DIGEST +SIZE +HOST +USED +MACHINES +PINNED/);
  await ok(["image", "pin", reference]);
  expect(await ok(["images", "--host", "host-0"])).toMatch(/ 0 +yes$/m);
  expect(await ok(["images", "--host", "host-1"])).not.toContain(reference);
  const refused = await lev(["image", "rm", reference]);
  expect(refused).toMatchObject({ code: 1, stdout: "" });
  expect(refused.stderr).toStartWith("lev: IMAGE_IN_USE: ");
  await ok(["image", "unpin", reference]);
  expect(await ok(["image", "rm", digest])).toStartWith("host-0: 1 images removed, ");
  expect(await ok(["images"])).not.toContain(reference);
  expect(await ok(["image", "prune"])).toStartWith("host-0: 0 images removed, ");
});

test("a pull that is cut goes on, a second one joins it, and its lines are few", async () => {
  const { reference, digest, layers } = push("slow");
  const gate = Promise.withResolvers<void>();
  const blob = layers[0]?.digest ?? "";
  registry.hook = async (request, path) => {
    if (request.method === "GET" && path.endsWith(blob)) await gate.promise;
    return undefined;
  };
  const cut = start(["pull", reference]);
  const asked = () => registry.hits.filter(({ path }) => path.endsWith(blob)).length;
  await until("the layer to be asked for", () => asked() === 1);
  cut.kill("SIGINT");
  expect(await cut.exited).not.toBe(0);
  const second = lev(["pull", reference]);
  gate.resolve();
  const { code, stdout, stderr } = await second;
  expect([code, stdout.split(" ")[0]]).toEqual([0, digest]);
  expect(stderr.split("\n").length).toBeLessThan(5);
  expect(asked()).toBe(1);
  registry.hook = () => undefined;
  const missing = await lev(["pull", `${registry.host}/nothing`]);
  expect(missing.code).toBe(1);
  expect(missing.stderr).toContain("lev: IMAGE_NOT_FOUND: ");
});

test("what docker saves is loaded, also compressed, from a directory and from standard input", async () => {
  const layout = await testImage("busybox");
  const archive = join(scratch, "saved.tar");
  const copy = ["skopeo", "copy", "--quiet", "--insecure-policy"];
  await runTool([...copy, `oci:${layout}:latest`, `docker-archive:${archive}:team/app:1`]);
  const loaded = await ok(["load", "--host", "host-0", archive]);
  expect(loaded).toMatch(/^docker\.io\/team\/app@sha256:[0-9a-f]{64}$/);
  await runTool(["gzip", "-k", archive]);
  expect(await ok(["load", `${archive}.gz`])).toBe(loaded);
  expect(await ok(["load", "-"], Bun.file(`${archive}.gz`))).toBe(loaded);
  const fromLayout = await ok(["load", layout]);
  expect(fromLayout).toMatch(/^localhost\/loaded@sha256:/);
  // It runs by that name: no registry is asked.
  const before = registry.hits.length;
  expect(await lev(["run", "--rm", "--entrypoint", "exit", loaded, "3"])).toMatchObject({
    code: 3,
  });
  expect(registry.hits.length).toBe(before);
  const bad = await lev(["load", MAIN]);
  expect(bad.code).toBe(1);
  expect(bad.stderr).toStartWith("lev: ");
  expect((await lev(["load", join(scratch, "nowhere")])).stderr).toStartWith("lev: BAD_REQUEST: ");
});

test("a login opens a private registry, and logout closes it", async () => {
  const { reference } = push("closed");
  const wanted = `Basic ${Buffer.from("me:pass word").toString("base64")}`;
  registry.hook = (request, path) =>
    !path.startsWith("/v2/closed/") || request.headers.get("authorization") === wanted
      ? undefined
      : new Response("", { status: 401, headers: { "www-authenticate": 'Basic realm="x"' } });
  const refused = await lev(["pull", reference]);
  expect(refused.stderr).toContain("lev: IMAGE_UNAUTHORIZED: ");
  const login = ["login", "-u", "me", "--password-stdin", registry.host];
  expect(await lev(login, new Blob(["pass word\n"]))).toMatchObject({
    code: 0,
    stdout: "",
    stderr: `lev: me at ${registry.host}`,
  });
  expect(await ok(["login"])).toContain(registry.host);
  await ok(["pull", reference]);
  expect(await lev(["run", "--rm", reference, "exit", "4"])).toMatchObject({ code: 4 });
  await ok(["logout", registry.host]);
  expect((await lev(["pull", reference])).stderr).toContain("lev: IMAGE_UNAUTHORIZED: ");
  expect((await lev(["logout", registry.host])).stderr).toStartWith("lev: NOT_FOUND: ");
  expect((await lev(["login", registry.host])).code).toBe(2);
  registry.hook = () => undefined;
});

/**
 * The whole line in the lab: image in a registry → control plane outside → the
 * agent's own stream → squashfs → our VMM on the real kvm_amd → Debian's kernel →
 * the image's process → its output and exit code in the user's terminal.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LAB_AGENT_DIR } from "../../cli/lab/agent.ts";
import { pushImage, testImage } from "../kit/images.ts";
import { runTool } from "../kit/images/run.ts";
import { compareTrees, DESCRIBE_TREE, describeTree } from "../kit/tree.ts";
import { until } from "../kit/until.ts";
import { LabFixture } from "./fixture.ts";

const BOOT_MS = 300_000;
const SETUP_MS = 420_000;
/** What fails must say so long before anybody gives up on it. */
const CLEAR_ERROR_MS = 30_000;

let world: LabFixture;
let busybox: string;
let python: string;

beforeAll(async () => {
  world = await LabFixture.start();
  busybox = await pushImage(world.registry.host, "busybox");
  python = await pushImage(world.registry.host, "debian-python");
}, SETUP_MS);

afterAll(async () => {
  await world[Symbol.asyncDispose]();
}, SETUP_MS);

/** The bracket keeps the shell that runs this from finding itself. */
const PGREP_VMM = "pgrep -f '[l]everet-vmm'";
const COUNTER = 'i=0; while :; do i=$((i+1)); echo "line $i"; sleep 0.3; done';

/** "line 1" to "line N", each once and in order. Returns N. */
function expectEveryLineOnce(output: string): number {
  const lines = output.trimEnd().split("\n");
  expect(lines).toEqual(lines.map((_, index) => `line ${index + 1}`));
  return lines.length;
}

const countOf = (output: string): number => output.split("\n").length - 1;

test(
  "a Debian image's process prints and its exit code is lev's",
  async () => {
    const script = "cat /etc/os-release; id; nproc; exit 7";
    const result = await world.lev("run", "--rm", python, "sh", "-c", script);
    expect(result.stdout).toContain("Debian GNU/Linux");
    expect(result.stdout).toContain("uid=0(root) gid=0(root)");
    expect(result.stdout).toEndWith("\n1\n");
    expect(result.code).toBe(7);
  },
  BOOT_MS,
);

test(
  "ENTRYPOINT, ENV, WORKDIR and USER of the image, -e, --cpus and both streams are honoured",
  async () => {
    const script =
      'echo "$FROM_ENTRYPOINT|$GREETING|$EXTRA|$(pwd)|$(id -u):$(id -g)|$(nproc)"; echo warn >&2';
    const argv = ["run", "--rm", "--cpus", "2", "-e", "EXTRA=a b", busybox, "sh", "-c", script];
    const result = await world.lev(...argv);
    expect(result.stdout).toBe("1|hello from the image|a b|/home/app|1000:1000|2\n");
    expect(result.stderr).toEndWith("warn\n");
    expect(result.code).toBe(0);
  },
  BOOT_MS,
);

test(
  "python computes, the root is writable, and a stopped machine goes with its disk",
  async () => {
    const script =
      "import math; open('/usr/note','w').write('kept'); print(math.factorial(25), open('/usr/note').read())";
    const ran = await world.lev("run", "--name", "py", python, "python3", "-c", script);
    expect(ran).toMatchObject({ code: 0, stdout: "15511210043330985984000000 kept\n" });
    const again = await world.lev("logs", "py");
    expect(again.stdout).toBe(ran.stdout);
    expect((await world.lev("rm", "py")).code).toBe(0);
    const gone = await world.lev("inspect", "py");
    expect(gone.stderr).toStartWith("lev: MACHINE_NOT_FOUND: ");
  },
  BOOT_MS,
);

/** The root alone, without what is mounted below it, as the describer sees it in the guest. */
const DESCRIBE_ROOT = `
import ctypes
assert ctypes.CDLL(None).mount(b"/", b"/mnt", None, 4096, None) == 0
${DESCRIBE_TREE}`;

test(
  "the guest's file tree equals umoci's unpacking of the same image, file by file",
  async () => {
    const bundle = mkdtempSync(join(tmpdir(), "lev-umoci-"));
    try {
      const layout = await testImage("debian-python");
      await runTool(["umoci", "unpack", "--image", `${layout}:latest`, join(bundle, "b")]);
      const expected = describeTree(join(bundle, "b", "rootfs"));
      expect(expected.length).toBeGreaterThan(1000);
      const argv = [
        "run",
        "--rm",
        "--memory",
        "512",
        python,
        "python3",
        "-c",
        DESCRIBE_ROOT,
        "/mnt",
      ];
      const result = await world.lev(...argv);
      expect(result).toMatchObject({ code: 0 });
      expect(compareTrees(expected, result.stdout.trimEnd().split("\n"))).toEqual([]);
    } finally {
      rmSync(bundle, { recursive: true, force: true });
    }
  },
  3 * BOOT_MS,
);

test(
  "the first Ctrl-C stops the machine and its exit code is still lev's",
  async () => {
    const script = 'trap "echo bye; exit 5" TERM; echo up; while :; do sleep 0.1; done';
    const running = world.startLev("run", "--rm", busybox, "sh", "-c", script);
    await until("the machine is up", () => running.output() === "up\n", BOOT_MS);
    running.kill("SIGINT");
    expect(await running.done).toMatchObject({ code: 5, stdout: "up\nbye\n" });
    expect(await world.client.machines()).toEqual([]);
  },
  BOOT_MS,
);

test(
  "a machine counts on while its agent is killed, and the next agent adopts it",
  async () => {
    const started = await world.lev("run", "-d", "--name", "adopted", busybox, "sh", "-c", COUNTER);
    expect(started.code).toBe(0);
    const follower = world.startLev("logs", "-f", "adopted");
    await until("some lines", () => countOf(follower.output()) >= 5, BOOT_MS);
    const vmm = await world.inLab(PGREP_VMM);

    await world.inLab(`kill -9 ${world.agentPid}`);
    const log = `${LAB_AGENT_DIR}/machines/${started.stdout.trim()}/output.log`;
    const size = async (): Promise<number> => Number(await world.inLab(`stat -c %s ${log}`));
    const before = await size();
    await until("output without an agent", async () => (await size()) > before, BOOT_MS);
    expect(await world.inLab(PGREP_VMM)).toBe(vmm);

    const seen = countOf(follower.output());
    await world.startAgent();
    await until(
      "lines of the adopted machine",
      () => countOf(follower.output()) > seen + 5,
      BOOT_MS,
    );
    expect(await world.inLab(PGREP_VMM)).toBe(vmm);
    expect((await world.client.machine("adopted")).state).toBe("started");

    expect((await world.lev("stop", "-t", "0", "adopted")).code).toBe(0);
    const followed = await follower.done;
    expect(followed.code).toBe(0);
    expectEveryLineOnce(followed.stdout);
    expect((await world.lev("logs", "adopted")).stdout).toBe(followed.stdout);
    expect((await world.lev("rm", "adopted")).code).toBe(0);
  },
  2 * BOOT_MS,
);

test(
  "the control plane is killed and started again: same machines, same states, output unbroken",
  async () => {
    await world.lev("run", "-d", "--name", "survivor", busybox, "sh", "-c", COUNTER);
    const follower = world.startLev("logs", "-f", "survivor");
    await until("some lines", () => countOf(follower.output()) >= 3, BOOT_MS);
    const before = await world.client.machine("survivor");

    world.killControlPlane();
    await world.restartControlPlane();
    await world.untilReady();
    await until(
      "the machine is started again in the control plane's eyes",
      async () => (await world.client.machine("survivor")).state === "started",
      BOOT_MS,
    );
    const after = await world.client.machine("survivor");
    expect(after.id).toBe(before.id);
    expect(after.instance_id).toBe(before.instance_id);
    const seen = countOf(follower.output());
    await until("the follower goes on", () => countOf(follower.output()) > seen + 3, BOOT_MS);

    expect((await world.lev("rm", "-f", "survivor")).code).toBe(0);
    follower.kill("SIGTERM");
    expectEveryLineOnce((await follower.done).stdout);
  },
  2 * BOOT_MS,
);

type Failure = { what: string; argv: () => string[]; reason: string };

const FAILURES: Failure[] = [
  {
    what: "an unknown image",
    argv: () => [`${world.registry.host}/no/such:1`],
    reason: "IMAGE_NOT_FOUND",
  },
  {
    what: "a tag of another architecture",
    argv: () => [`${world.registry.host}/arm64only:latest`],
    reason: "IMAGE_PLATFORM_MISSING",
  },
  {
    what: "a corrupt layer",
    argv: () => [`${world.registry.host}/wrong-diff-id:latest`],
    reason: "IMAGE_CORRUPT",
  },
  {
    what: "more memory than the host has",
    argv: () => ["--memory", "60000", busybox],
    reason: "NO_CAPACITY",
  },
  {
    what: "a kernel file that is not one",
    argv: () => ["--kernel", "/etc/passwd", busybox],
    reason: "KERNEL_NOT_FOUND",
  },
];

test(
  "what cannot run ends within seconds with one clear line and a state that says why",
  async () => {
    await pushImage(world.registry.host, "arm64only");
    await pushImage(world.registry.host, "wrong-diff-id");
    for (const failure of FAILURES) {
      const result = await world.lev("run", "--name", "fails", ...failure.argv());
      expect([failure.what, result.code]).toEqual([failure.what, 125]);
      const line = result.stderr.trimEnd().split("\n").at(-1);
      expect(line).toStartWith(`lev: ${failure.reason}: `);
      expect(result.ms).toBeLessThan(CLEAR_ERROR_MS);
      const machine = await world.client.machine("fails");
      expect(machine).toMatchObject({ state: "failed", status_reason: failure.reason });
      const taken = await world.lev("run", "--name", "fails", busybox);
      expect(taken).toMatchObject({ code: 125, stdout: "" });
      expect(taken.stderr).toStartWith("lev: NAME_TAKEN: ");
      expect((await world.lev("rm", "fails")).code).toBe(0);
    }
  },
  2 * BOOT_MS,
);

test(
  "nothing is left behind in the host",
  async () => {
    expect(await world.client.machines()).toEqual([]);
    const processes = await world.inLab(`${PGREP_VMM} || true`);
    expect(processes).toBe("");
    expect(await world.inLab(`ls ${LAB_AGENT_DIR}/machines`)).toBe("");
    expect(await world.inLab(`find ${LAB_AGENT_DIR} -type s`)).toBe("");
    expect(await world.inLab("ip -br link | grep -c tap || true")).toBe("0\n");
  },
  BOOT_MS,
);

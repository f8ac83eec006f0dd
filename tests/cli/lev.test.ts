/** `./lev` as a process: how it finds and installs its Bun, and how it answers mistakes. */
import { afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

// A process for each verb, one after the other.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dirname, "../..");
const TOOLS = ["sh", "dirname", "readlink", "cksum", "mkdir", "cat", "date", "flock", "chmod"];

/** An npm that installs a Bun which only says how it was called. */
const FAKE_NPM = `#!/bin/sh
echo "$*" >>"$CALLS"
[ -z "\${NPM_FAILS:-}" ] || { echo "the registry is on fire" >&2; exit 1; }
mkdir -p node_modules/bun/bin
printf '#!/bin/sh\\necho "bun $*"\\n' >node_modules/bun/bin/bun.exe
chmod +x node_modules/bun/bin/bun.exe
echo {} >node_modules/.package-lock.json
`;

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "lev-script-"));
  mkdirSync(join(dir, "bin"));
  mkdirSync(join(dir, "checkout"));
  for (const tool of TOOLS) symlinkSync(Bun.which(tool) ?? `/bin/${tool}`, join(dir, "bin", tool));
  copyFileSync(join(ROOT, "lev"), join(dir, "checkout", "lev"));
  writeFileSync(join(dir, "checkout", "package-lock.json"), "{}");
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

function installTools(): void {
  for (const [name, text] of [
    ["npm", FAKE_NPM],
    ["node", "#!/bin/sh\nexit 0\n"],
  ] as const) {
    writeFileSync(join(dir, "bin", name), text);
    chmodSync(join(dir, "bin", name), 0o755);
  }
}

type Result = { code: number; stdout: string; stderr: string };

async function lev(argv: string[], more: { file?: string; env?: object } = {}): Promise<Result> {
  const child = Bun.spawn([more.file ?? join(dir, "checkout", "lev"), ...argv], {
    cwd: tmpdir(),
    env: { PATH: join(dir, "bin"), CALLS: join(dir, "calls"), CI: "true", ...more.env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [code, stdout, stderr] = await Promise.all([
    child.exited,
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code, stdout, stderr };
}

const npmCalls = (): string[] => readFileSync(join(dir, "calls"), "utf8").trimEnd().split("\n");

test("without npm it says what to install", async () => {
  const result = await lev(["version"]);
  expect(result.code).toBe(1);
  expect(result.stderr).toContain("apt-get install nodejs npm");
});

test("the first call installs once, later ones not at all, a new lock file again", async () => {
  installTools();
  const first = await lev(["ps", "a b"]);
  const main = join(dir, "checkout", "cli", "main.ts");
  expect(first).toMatchObject({ code: 0, stdout: `bun --no-env-file ${main} ps a b\n` });
  expect(first.stderr).toContain("packages installed in");
  expect(await lev(["ps"])).toMatchObject({ code: 0, stderr: "" });
  expect(npmCalls().length).toBe(1);
  writeFileSync(join(dir, "checkout", "package-lock.json"), '{"changed":1}');
  expect((await lev(["ps"])).code).toBe(0);
  expect(npmCalls().length).toBe(2);
});

test("two first calls at once install once", async () => {
  installTools();
  const results = await Promise.all([lev(["a"]), lev(["b"]), lev(["c"])]);
  expect(results.map((result) => result.code)).toEqual([0, 0, 0]);
  expect(npmCalls().length).toBe(1);
});

test("npm's words are shown when it fails, and the next call tries again", async () => {
  installTools();
  const failed = await lev(["ps"], { env: { NPM_FAILS: "1" } });
  expect(failed.code).toBe(1);
  expect(failed.stderr).toContain("the registry is on fire");
  expect((await lev(["ps"])).code).toBe(0);
});

test("a link to it works from anywhere, relative and absolute", async () => {
  installTools();
  mkdirSync(join(dir, "links"));
  symlinkSync("../checkout/lev", join(dir, "links", "relative"));
  symlinkSync(join(dir, "links", "relative"), join(dir, "links", "absolute"));
  for (const name of ["relative", "absolute"]) {
    const result = await lev(["x"], { file: join(dir, "links", name) });
    expect(result.stdout).toContain(join(dir, "checkout", "cli", "main.ts"));
  }
});

const real = (argv: string[], env: object = {}): Promise<Result> =>
  lev(argv, { file: join(ROOT, "lev"), env: { PATH: process.env["PATH"], HOME: dir, ...env } });

test("a wrong command line is 2 and points to the help, on standard error only", async () => {
  const wrong = [["nonsense"], ["run"], ["run", "--bogus", "x"], ["stop"], ["logs", "a", "b"]];
  for (const argv of [...wrong, ["lab"], ["lab", "sideways"], ["wait", "--state", "odd", "m"]]) {
    const result = await real(argv);
    expect([argv, result.code, result.stdout]).toEqual([argv, 2, ""]);
    expect(result.stderr).toStartWith("lev: ");
    expect(result.stderr).toContain("says how");
  }
});

test("every verb has help that says how it is used", async () => {
  const { stdout } = await real(["help"]);
  const verbs = [...stdout.matchAll(/^ {2}([a-z]+) {2}/gm)].map((match) => match[1] ?? "");
  expect(verbs).toContain("run");
  expect(verbs.length).toBeGreaterThan(10);
  for (const verb of verbs) {
    const result = await real([verb, "--help"]);
    expect([verb, result.code, result.stderr]).toEqual([verb, 0, ""]);
    expect(result.stdout).toStartWith(`usage: lev ${verb}`);
  }
});

test("a control plane that is not there is one clear line", async () => {
  const result = await real(["ps"], { LEVERET_URL: "http://127.0.0.1:9" });
  expect(result.code).toBe(1);
  expect(result.stderr).toStartWith("lev: LINK_LOST: Cannot reach the control plane");
  expect(result.stderr.trimEnd().split("\n").length).toBe(1);
});

import { describe, expect, test } from "bun:test";
import type { ImageConfig } from "../images/types.ts";
import { buildProcess, parseSignal, type ProcessWishes } from "./process-spec.ts";

const IMAGE: ImageConfig = {
  entrypoint: ["/entry"],
  cmd: ["one", "two"],
  env: ["PATH=/img/bin", "A=image", "BROKEN", "E=a=b"],
  user: "app:web",
  workingDir: "/srv",
  stopSignal: "SIGQUIT",
};
const wishes = (over: Partial<ProcessWishes> = {}): ProcessWishes => ({
  image: "img:1",
  env: {},
  entrypoint: [],
  hasEntrypoint: false,
  cmd: [],
  hasCmd: false,
  workingDir: "",
  user: "",
  ...over,
});

describe("the process of a machine", () => {
  test("is the image's when the machine asks for nothing", () => {
    expect(buildProcess(wishes(), IMAGE)).toEqual({
      argv: ["/entry", "one", "two"],
      env: ["PATH=/img/bin", "A=image", "E=a=b"],
      cwd: "/srv",
      user: "app:web",
      stopSignal: 3,
    });
  });

  test("cmd replaces CMD and keeps ENTRYPOINT", () => {
    expect(buildProcess(wishes({ hasCmd: true, cmd: ["x"] }), IMAGE).argv).toEqual(["/entry", "x"]);
    expect(buildProcess(wishes({ hasCmd: true }), IMAGE).argv).toEqual(["/entry"]);
  });

  test("entrypoint replaces ENTRYPOINT and drops CMD", () => {
    const own = { hasEntrypoint: true, entrypoint: ["/own"] };
    expect(buildProcess(wishes(own), IMAGE).argv).toEqual(["/own"]);
    expect(buildProcess(wishes({ ...own, hasCmd: true, cmd: ["y"] }), IMAGE).argv).toEqual([
      "/own",
      "y",
    ]);
    const none = { hasEntrypoint: true, hasCmd: true, cmd: ["sh"] };
    expect(buildProcess(wishes(none), IMAGE).argv).toEqual(["sh"]);
  });

  test("nothing to run is an error that names the image", () => {
    const bare = { ...IMAGE, entrypoint: null, cmd: null };
    expect(() => buildProcess(wishes(), bare)).toThrow(
      'Image "img:1" has neither ENTRYPOINT nor CMD: name a command to run',
    );
  });

  test("the machine's environment goes over the image's, PATH has a default", () => {
    const { env } = buildProcess(wishes({ env: { A: "mine", B: "2" } }), IMAGE);
    expect(env).toEqual(["PATH=/img/bin", "A=mine", "E=a=b", "B=2"]);
    const bare = buildProcess(wishes(), { ...IMAGE, env: [] });
    expect(bare.env[0]).toStartWith("PATH=/usr/local/sbin:");
  });

  test("user and working directory", () => {
    const own = buildProcess(wishes({ user: "0", workingDir: "rel/dir" }), IMAGE);
    expect(own).toMatchObject({ user: "0", cwd: "/rel/dir" });
    expect(buildProcess(wishes(), { ...IMAGE, workingDir: "" }).cwd).toBe("/");
  });
});

test.each([
  ["", 15],
  ["SIGTERM", 15],
  ["term", 15],
  ["15", 15],
  ["9", 9],
  ["SIGRTMIN+3", 37],
  ["SIGRTMAX-1", 63],
  ["SIGRTMAX+1", 15],
  ["0", 15],
  ["99", 15],
  ["SIGNONSENSE", 15],
])("the stop signal %p is %p", (text, number) => {
  expect(parseSignal(text)).toBe(number);
});

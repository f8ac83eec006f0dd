import { expect, test } from "bun:test";
import { CreateMachineRequest } from "../../proto/rest.ts";
import { UsageError } from "../command.ts";
import { parseRun } from "./run.ts";

test("the whole command line becomes a request that the API's own schema takes", () => {
  const argv = [
    ["--rm", "-e", "A=1", "--env", "B", "--cpus", "2", "--memory", "512", "--disk", "64"],
    ["--name", "web-1", "--kernel", "/k/vmlinux", "--initrd", "/k/initrd", "--user", "1000:1000"],
    ["--workdir", "/srv", "--entrypoint", "/bin/sh", "--stop-timeout", "3"],
    ["127.0.0.1:5000/a/b:1", "-c", "exit 7"],
  ].flat();
  const { request, rm, detach } = parseRun(argv, { B: "here" });
  expect({ rm, detach }).toEqual({ rm: true, detach: false });
  expect(request).toEqual({
    name: "web-1",
    config: {
      image: "127.0.0.1:5000/a/b:1",
      guest: { cpus: 2, memory_mb: 512, disk_mb: 64, kernel: "/k/vmlinux", initrd: "/k/initrd" },
      env: { A: "1", B: "here" },
      init: {
        entrypoint: ["/bin/sh"],
        cmd: ["-c", "exit 7"],
        working_dir: "/srv",
        user: "1000:1000",
      },
      stop_config: { timeout: 3 },
    },
    on_no_capacity: "fail",
  });
  expect(CreateMachineRequest.safeParse(request).success).toBe(true);
});

test("what is not asked for is left to the API's defaults", () => {
  const { request } = parseRun(["img"], {});
  expect(request).toEqual({
    config: { image: "img", guest: {}, env: {}, init: {}, stop_config: {} },
    on_no_capacity: "fail",
  });
});

test("restart policy, labels and waiting for room are taken over", () => {
  const words = ["--restart", "on-failure:3", "--label", "zone=a", "--wait-capacity", "img"];
  const { request } = parseRun(words, {});
  expect(request).toMatchObject({
    config: {
      restart: { policy: "on-failure", max_retries: 3 },
      placement: { labels: { zone: "a" } },
    },
    on_no_capacity: "pending",
  });
  expect(CreateMachineRequest.safeParse(request).success).toBe(true);
});

test("wrong command lines are refused before anything is created", () => {
  const wrong = [
    [],
    ["--rm"],
    ["--rm", "-d", "img"],
    ["--cpus", "0", "img"],
    ["--cpus", "33", "img"],
    ["--memory", "1g", "img"],
    ["--bogus", "img"],
    ["--restart", "sometimes", "img"],
    ["--restart", "always:3", "img"],
    ["--label", "zone", "img"],
  ];
  for (const argv of wrong) expect(() => parseRun(argv, {})).toThrow(UsageError);
});

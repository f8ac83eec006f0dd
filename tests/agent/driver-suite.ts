/** What every driver must do. The fake and the real one pass the same cases. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Driver, RunRequest } from "../../agent/runtime/driver.ts";
import { OutputLogReader } from "../../lib/output-log-reader.ts";
import { MachineId } from "../../proto/ids.ts";
import { failure } from "../kit/failure.ts";
import { until } from "../kit/until.ts";

export type DriverUnderTest = {
  /** Another agent's driver on the same host. */
  make(dir: string): Driver;
  request(
    argv: string[],
  ): Pick<RunRequest, "kernelPath" | "initrdPath" | "kernelArgs" | "squashfsPath" | "process">;
};

const never = new AbortController().signal;

export function describeDriver(name: string, subject: DriverUnderTest, timeoutMs = 30_000): void {
  describe(name, () => {
    let dir = "";
    let driver: Driver;
    beforeAll(() => {
      dir = mkdtempSync(join(tmpdir(), "lev-driver-"));
      driver = subject.make(dir);
    });
    afterAll(() => rmSync(dir, { recursive: true, force: true }));

    const request = (argv: string[], machineId: string = MachineId.create(), incarnation = 1) => ({
      machineId,
      incarnation,
      cpus: 1,
      memoryMib: 128,
      diskMib: 32,
      hostname: "guest",
      ...subject.request(argv),
    });
    const outputOf = (machineId: string): string => {
      const reader = new OutputLogReader(driver.outputPath(machineId), 0);
      const text = reader.read(1 << 20).map((record) => Buffer.from(record.data).toString());
      reader.close();
      return text.join("");
    };

    test(
      "a process that ends gives its output and its exit code",
      async () => {
        const wanted = request(["echo", "hello", "world"]);
        const run = await driver.start(wanted, never);
        expect(await run.ended).toMatchObject({ phase: "ended", exitCode: 0, incarnation: 1 });
        expect(outputOf(wanted.machineId)).toBe("hello world\n");
        await driver.destroy(wanted.machineId);
      },
      timeoutMs,
    );

    test(
      "an exit code that is not zero is no failure of the machine",
      async () => {
        const wanted = request(["exit", "7"]);
        const last = await (await driver.start(wanted, never)).ended;
        expect(last.exitCode).toBe(7);
        expect(last.reason).toBeUndefined();
        await driver.destroy(wanted.machineId);
      },
      timeoutMs,
    );

    test(
      "stop asks with the process's own signal",
      async () => {
        const wanted = request(["idle"]);
        const run = await driver.start(wanted, never);
        await until("it runs", () => run.status.phase === "running");
        await run.stop(0, 10_000);
        expect(await run.ended).toMatchObject({ exitCode: 143, exitSignal: 15 });
        await driver.destroy(wanted.machineId);
      },
      timeoutMs,
    );

    test(
      "a process that ignores its signal is killed at the timeout",
      async () => {
        const wanted = request(["stubborn"]);
        const run = await driver.start(wanted, never);
        await until("it has set its trap", () => outputOf(wanted.machineId) === "deaf\n");
        await run.stop(0, 20);
        expect(await run.ended).toMatchObject({ exitCode: 137, exitSignal: 9 });
        await driver.destroy(wanted.machineId);
      },
      timeoutMs,
    );

    test(
      "kill and destroy are safe twice and leave nothing",
      async () => {
        const wanted = request(["count"]);
        const run = await driver.start(wanted, never);
        await Promise.all([run.kill(), run.kill()]);
        await run.kill();
        await driver.destroy(wanted.machineId);
        await driver.destroy(wanted.machineId);
        expect(existsSync(join(dir, wanted.machineId))).toBe(false);
      },
      timeoutMs,
    );

    test(
      "destroy ends a machine that runs",
      async () => {
        const wanted = request(["count"]);
        const run = await driver.start(wanted, never);
        await driver.destroy(wanted.machineId);
        expect((await run.ended).phase).toBe("ended");
        expect(readdirSync(dir)).toEqual([]);
      },
      timeoutMs,
    );

    test(
      "a start that is aborted leaves nothing",
      async () => {
        const wanted = request(["count"]);
        const abort = new AbortController();
        abort.abort(new Error("changed my mind"));
        expect((await failure(driver.start(wanted, abort.signal))).message).toContain(
          "changed my mind",
        );
        expect(readdirSync(dir)).toEqual([]);
      },
      timeoutMs,
    );

    test(
      "output goes on through restarts, in one sequence",
      async () => {
        const first = request(["echo", "one"]);
        await (
          await driver.start(first, never)
        ).ended;
        const second = request(["echo", "two"], first.machineId, 2);
        await (
          await driver.start(second, never)
        ).ended;
        expect(outputOf(first.machineId)).toBe("one\ntwo\n");
        const reader = new OutputLogReader(driver.outputPath(first.machineId), 1);
        expect(reader.read(1 << 20)).toMatchObject([{ sequence: 2, incarnation: 2 }]);
        reader.close();
        await driver.destroy(first.machineId);
      },
      timeoutMs,
    );
  });
}

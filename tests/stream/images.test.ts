/** Jobs on images, from the REST API to an agent's store and back. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { LvError } from "../../proto/errors.ts";
import { Image, ImageJob, Registry } from "../../proto/rest-images.ts";
import { CreatedToken } from "../../proto/rest.ts";
import { Client } from "../../cli/client.ts";
import { until } from "../kit/until.ts";
import { World } from "../kit/world.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call, startPlane } from "./kit/plane.ts";

setDefaultTimeout(60_000);

const Jobs = z.array(ImageJob);
const Images = z.array(Image);

const pull = (world: World, image: string, host?: string, client = world.client) =>
  client.call("POST", "/v1/images/pull", Jobs, {
    body: { image, ...(host === undefined ? {} : { host }) },
  });

const jobOf = (world: World, id: string) =>
  world.client.call("GET", `/v1/images/jobs/${id}`, ImageJob);

const ended = (world: World, id: string) =>
  until(`job ${id} to end`, async () => {
    const job = await jobOf(world, id);
    return job.state === "pending" ? null : job;
  });

const listed = (world: World, client = world.client) => client.call("GET", "/v1/images", Images);

async function only<T>(list: Promise<T[]>): Promise<T> {
  const [one, ...more] = await list;
  if (one === undefined || more.length > 0) throw new Error(`${more.length + 1} instead of one`);
  return one;
}

const reasonOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "",
    (error: unknown) => LvError.from(error).reason,
  );

/** Everything that lies below a directory, as text. */
function bytesBelow(dir: string): string {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), "latin1"))
    .join("");
}

test("a pull goes to every host that takes machines, and each one's image is listed", async () => {
  await using world = await World.create({ agents: 3 });
  await world.client.call("POST", "/v1/hosts/host-2/cordon", z.unknown());
  const jobs = await pull(world, "busybox");
  expect(jobs.map(({ host_name: name }) => name).toSorted()).toEqual(["host-0", "host-1"]);
  for (const { id } of jobs)
    expect(await ended(world, id)).toMatchObject({
      state: "done",
      image: "docker.io/library/busybox:latest",
      bytes: 1,
    });
  const image = await only(listed(world));
  expect(image.references).toEqual(["docker.io/library/busybox:latest"]);
  expect(image.hosts.map(({ host_name: name }) => name).toSorted()).toEqual(["host-0", "host-1"]);
});

test("a pull shows how far it is, is joined when asked for again, and outlives its links", async () => {
  await using world = await World.create();
  const { id } = await only(pull(world, "slow"));
  const { progress } = await until("progress", async () => {
    const job = await jobOf(world, id);
    return job.progress?.phase === "pulling" ? job : null;
  });
  expect(progress).toEqual({
    phase: "pulling",
    bytes_done: 50,
    bytes_total: 100,
    layers: 2,
    layers_done: 1,
    queue_position: 0,
    bytes_per_second: 25,
  });
  expect((await only(pull(world, "docker.io/library/slow:latest"))).id).toBe(id);
  await world.restartPlane();
  await world.untilReady(1);
  expect((await jobOf(world, id)).state).toBe("pending");
  // The next agent finds the job in its journal.
  await world.agent.restart();
  world.agent.images.release();
  expect(await ended(world, id)).toMatchObject({ state: "done", error_reason: null });
});

test("what a pull fails with is the job's error, and a host that is away is told at once", async () => {
  await using world = await World.create();
  const { id } = await only(pull(world, "missing"));
  expect(await ended(world, id)).toMatchObject({
    state: "failed",
    error_reason: "IMAGE_NOT_FOUND",
    progress: null,
  });
  expect(await reasonOf(pull(world, "a//b"))).toBe("IMAGE_REFERENCE_INVALID");
  expect(await reasonOf(pull(world, "busybox", "nobody"))).toBe("HOST_NOT_FOUND");
  const body = { image: "busybox", platform: "linux/arm64" };
  expect(await reasonOf(world.client.call("POST", "/v1/images/pull", Jobs, { body }))).toBe(
    "IMAGE_PLATFORM_MISSING",
  );
  await world.agent.stop();
  await until("the host to be away", async () =>
    (await world.client.hosts()).some(({ state }) => state === "disconnected"),
  );
  expect(await reasonOf(pull(world, "busybox", "host-0"))).toBe("HOST_UNAVAILABLE");
  expect(await reasonOf(pull(world, "busybox"))).toBe("HOST_UNAVAILABLE");
  await world.agent.restart();
});

test("images are pinned, removed and pruned, but not what a machine needs", async () => {
  await using world = await World.create();
  const change = async (method: string, path: string, body?: object): Promise<ImageJob> => {
    const options = body === undefined ? {} : { body };
    const { id } = await only(world.client.call(method, path, Jobs, options));
    return ended(world, id);
  };
  for (const name of ["one", "two", "three"])
    await ended(world, (await only(pull(world, name))).id);
  const digestOf = async (name: string): Promise<string> =>
    (await listed(world)).find(({ references }) => references[0]?.includes(name))?.digest ?? "";
  const [one, two] = [await digestOf("one"), await digestOf("two")];
  expect(await change("POST", "/v1/images/pin", { image: one })).toMatchObject({ state: "done" });
  const pinned = (await listed(world)).find(({ digest }) => digest === one);
  expect(pinned?.hosts[0]?.pinned).toBe(true);
  expect(await change("DELETE", `/v1/images/${one}`)).toMatchObject({
    state: "failed",
    error_reason: "IMAGE_IN_USE",
  });
  world.agent.images.needed.add(two);
  expect(await change("POST", "/v1/images/prune", { all: true })).toMatchObject({
    state: "done",
    removed: 1,
  });
  expect((await listed(world)).map(({ digest }) => digest).toSorted()).toEqual(
    [one, two].toSorted(),
  );
  await change("POST", "/v1/images/pin", { image: one, pinned: false });
  const byName = encodeURIComponent("one");
  expect(await change("DELETE", `/v1/images/${byName}`)).toMatchObject({ removed: 1 });
  const gone = world.client.call("DELETE", `/v1/images/${one}`, Jobs);
  expect(await reasonOf(gone)).toBe("IMAGE_NOT_FOUND");
});

test("a project sees what it has pulled and what its machines use, and nothing of others", async () => {
  await using world = await World.create();
  await world.client.call("POST", "/v1/projects", z.unknown(), { body: { name: "team" } });
  const made = await world.client.call("POST", "/v1/tokens", CreatedToken, {
    body: { name: "t", scope: "write" },
    headers: { "leveret-project": "team" },
  });
  const team = new Client({ url: world.plane.httpUrl, token: made.token });
  const mine = await only(pull(world, "ours"));
  await ended(world, mine.id);
  expect(await listed(world, team)).toEqual([]);
  expect(await reasonOf(team.call("GET", `/v1/images/jobs/${mine.id}`, ImageJob))).toBe(
    "NOT_FOUND",
  );
  const own = await only(pull(world, "theirs", undefined, team));
  await ended(world, own.id);
  expect((await listed(world, team)).map(({ references }) => references[0])).toEqual([
    "docker.io/library/theirs:latest",
  ]);
  for (const [method, path, body] of [
    ["POST", "/v1/images/prune", {}],
    ["POST", "/v1/images/pin", { image: "ours" }],
    ["DELETE", "/v1/images/ours", undefined],
  ] as const)
    expect(await reasonOf(team.call(method, path, Jobs, { body }))).toBe("PERMISSION_DENIED");
  const machine = await world.run(["idle"], { image: "ours" });
  await world.untilState(machine.id, "started");
  await until("the machine to count", async () =>
    (await listed(world)).some(
      ({ references, hosts }) =>
        references[0]?.includes("ours") === true && hosts[0]?.machines === 1,
    ),
  );
});

test("a machine goes where its image is, by what the hosts say", async () => {
  await using world = await World.create({ agents: 3 });
  const { id } = await only(pull(world, "docker.io/library/cached", "host-1"));
  await ended(world, id);
  const machines = await Promise.all([1, 2].map(() => world.run(["idle"], { image: "cached" })));
  for (const machine of machines)
    expect((await world.untilState(machine.id, "started")).host_name).toBe("host-1");
});

test("a login lets a project's pulls in, and its password is nowhere on disk in clear", async () => {
  await using world = await World.create({ mtls: true });
  const first = await only(pull(world, "private/app"));
  expect(await ended(world, first.id)).toMatchObject({ error_reason: "IMAGE_UNAUTHORIZED" });
  const kept = await world.client.call("POST", "/v1/registries", Registry, {
    body: { registry: "https://index.docker.io/", username: "user", password: "secret" },
  });
  expect(kept).toEqual({ registry: "docker.io", username: "user", updated_at: expect.any(String) });
  const all = await world.client.call("GET", "/v1/registries", z.array(z.unknown()));
  expect(JSON.stringify(all)).not.toContain("secret");
  const second = await only(pull(world, "private/app"));
  expect(await ended(world, second.id)).toMatchObject({ state: "done" });
  const machine = await world.run(["idle"], { image: "private/app" });
  await world.untilState(machine.id, "started");
  const journal = bytesBelow(world.agent.dir);
  expect(journal).toContain("private/app");
  expect(journal).not.toContain("secret");
  await world.client.call("DELETE", "/v1/registries/docker.io", Registry);
  const third = await only(pull(world, "private/app"));
  expect(await ended(world, third.id)).toMatchObject({ error_reason: "IMAGE_UNAUTHORIZED" });
});

test("an agent that starts anew in the middle of a private pull is given the password again", async () => {
  await using world = await World.create({ mtls: true });
  await world.client.call("POST", "/v1/registries", Registry, {
    body: { registry: "docker.io", username: "user", password: "secret" },
  });
  const { id } = await only(pull(world, "private-slow"));
  const machine = await world.run(["idle"], { image: "private-slow" });
  await until("both to wait", () => world.agent.images.waiting === 2);
  await world.agent.restart();
  await until("both to wait again", () => world.agent.images.waiting === 2);
  world.agent.images.release();
  expect(await ended(world, id)).toMatchObject({ state: "done" });
  await world.untilState(machine.id, "started");
  expect(bytesBelow(world.agent.dir)).not.toContain("secret");
});

test("an agent of before these operations fails the job with UNIMPLEMENTED", async () => {
  await using plane = await startPlane();
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const { body } = await call(plane, "POST", "/v1/images/pull", { image: "busybox" });
  const { id } = await only(Promise.resolve(Jobs.parse(body)));
  const op = await agent.op(1);
  expect([op.machineId, op.login]).toEqual([id, undefined]);
  agent.result(op, { error: ["BAD_REQUEST", `"${id}" is not a machine id`] });
  await until("the job to fail", async () => {
    const job = ImageJob.parse((await call(plane, "GET", `/v1/images/jobs/${id}`)).body);
    return job.state === "failed" && job.error_reason === "UNIMPLEMENTED";
  });
  await until("the result to be acknowledged", () => agent.acked().length === 1);
});

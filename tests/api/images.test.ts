/** The list of images as projects see it, with what hosts have told written by hand. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { replaceHostImages } from "../../cp/db/queries/host-images.ts";
import { insertFinishedJob } from "../../cp/db/queries/image-jobs.ts";
import { ImageJobId } from "../../proto/ids.ts";
import { Image } from "../../proto/rest-images.ts";
import { Project } from "../../proto/rest.ts";
import { startApi, type Api } from "./kit/api.ts";

setDefaultTimeout(30_000);

let api: Api;
beforeAll(async () => {
  api = await startApi();
});
afterAll(() => api[Symbol.asyncDispose]());

const digestOf = (letter: string): string => `sha256:${letter.repeat(64)}`;

test("a project sees its own images by its own names; the fleet sees all of them", async () => {
  const { db } = api.database;
  const hostId = await api.addHost();
  const project = Project.parse((await api.call("POST", "/v1/projects", { name: "team" })).body);
  const theirs = "reg.example/secret-plans/app:1";
  const ours = "reg.example/team/app:1";
  const image = (letter: string, names: string[]) => ({
    digest: digestOf(letter),
    sizeBytes: 1_000,
    lastUsedAt: new Date(0),
    pinned: false,
    names,
  });
  await replaceHostImages(db, hostId, [image("a", [theirs, ours]), image("b", [theirs])]);
  await insertFinishedJob(db, {
    id: ImageJobId.create(),
    projectId: project.id,
    hostId,
    kind: "pull",
    image: ours,
    digest: digestOf("a"),
    bytes: 1_000,
  });
  const list = async (headers: Record<string, string>): Promise<Image[]> =>
    Image.array().parse((await api.call("GET", "/v1/images", undefined, { headers })).body);
  const own = await list({ "leveret-project": "team" });
  expect(own.map(({ digest, references }) => [digest, references])).toEqual([
    [digestOf("a"), [ours]],
  ]);
  const all = await list({});
  expect(all.map(({ digest, references }) => [digest, references])).toEqual([
    [digestOf("a"), [theirs, ours]],
    [digestOf("b"), [theirs]],
  ]);
  // What a host has told last is all it has.
  await replaceHostImages(db, hostId, [image("b", [])]);
  expect((await list({})).map(({ digest }) => digest)).toEqual([digestOf("b")]);
  expect(await list({ "leveret-project": "team" })).toEqual([]);
});

test("a registry login is replaced, listed without its password, and forgotten once", async () => {
  const login = (password: string) =>
    api.call("POST", "/v1/registries", { registry: "GHCR.io/", username: "me", password });
  for (const password of ["first", "second"]) {
    const { status, body } = await login(password);
    expect([status, body["registry"]]).toEqual([200, "GHCR.io"]);
    expect(JSON.stringify(body)).not.toContain(password);
  }
  expect((await api.call("GET", "/v1/registries")).body).toHaveLength(1);
  const path = "/v1/registries/GHCR.io";
  expect((await api.call("DELETE", path)).status).toBe(200);
  expect((await api.call("DELETE", path)).status).toBe(404);
  for (const wrong of [{ registry: "a b" }, { registry: "x/y" }, { username: "a:b" }]) {
    const body = { registry: "ghcr.io", username: "me", password: "p", ...wrong };
    expect((await api.call("POST", "/v1/registries", body)).status).toBe(400);
  }
});

import { Image, ImageJob } from "../../proto/rest-images.ts";
import { Client } from "../client.ts";
import { exactly, parse, UsageError, type Command } from "../command.ts";
import { exitCode, followJobs } from "../image-jobs.ts";
import { out } from "../output.ts";
import { age, bytes, table } from "../render.ts";

export const images: Command = {
  summary: "list the images that hosts have",
  help: `usage: lev images [--host HOST] [--json]

One line for each image and host. MACHINES is how many of yours use it. A project's
token sees what its machines use and what it has pulled or loaded; a fleet token sees
every image.
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, {
      json: { type: "boolean" },
      host: { type: "string" },
    });
    exactly(positionals, 0, "");
    const all = await Client.fromEnvironment().call("GET", "/v1/images", Image.array());
    const shown = values.host === undefined ? all : all.flatMap(onHost(values.host));
    await out(
      values.json === true ? `${JSON.stringify(shown, null, 2)}\n` : imagesTable(shown, Date.now()),
    );
    return 0;
  },
};

const onHost =
  (host: string) =>
  (image: Image): Image[] => {
    const hosts = image.hosts.filter((one) => one.host_id === host || one.host_name === host);
    return hosts.length === 0 ? [] : [{ ...image, hosts }];
  };

/** Pure. */
export function imagesTable(list: Image[], now: number): string {
  const rows = list.flatMap((image) =>
    image.hosts.map((host) => [
      image.references.at(-1) ?? "<none>",
      image.digest.slice("sha256:".length, "sha256:".length + 12),
      bytes(image.size),
      host.host_name,
      age(host.last_used_at, now),
      String(host.machines),
      host.pinned ? "yes" : "",
    ]),
  );
  return table(["IMAGE", "DIGEST", "SIZE", "HOST", "USED", "MACHINES", "PINNED"], rows);
}

export const pull: Command = {
  summary: "pull an image ahead of its first machine",
  help: `usage: lev pull [--host HOST] [--platform linux/amd64] IMAGE

Without --host on every host that takes machines. Prints each host's digest. The pull
belongs to the host: it goes on when this command is cut, and the same command joins it
again.
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, {
      host: { type: "string" },
      platform: { type: "string" },
    });
    const [name = ""] = exactly(positionals, 1, "IMAGE");
    const client = Client.fromEnvironment();
    const body = { image: name, ...only(values) };
    const begun = await client.call("POST", "/v1/images/pull", ImageJob.array(), { body });
    const jobs = await followJobs(client, begun);
    for (const job of jobs)
      if (job.state === "done")
        await out(`${job.digest ?? ""}  ${bytes(job.bytes ?? 0)}  ${job.host_name}\n`);
    return exitCode(jobs);
  },
};

export const image: Command = {
  summary: "pin, unpin, remove and prune images",
  help: `usage: lev image pin | unpin [--host HOST] IMAGE
       lev image rm [--host HOST] IMAGE
       lev image prune [--host HOST] [--all]

IMAGE is a reference or a whole digest (sha256:…). Without --host it is meant wherever
it is. These are for fleet administrators, since images are shared by all projects.

  pin    keeps it whatever happens; unpin ends that
  rm     removes it; refused where it is pinned or a machine needs it
  prune  removes images that no machine needs, that are not pinned and that nothing
         has used for a day (--all: for half a minute). A loaded image stays for a day
`,
  run: async (argv) => {
    const [verb = "", ...rest] = argv;
    const run = Object.hasOwn(VERBS, verb) ? VERBS[verb] : undefined;
    if (run === undefined)
      throw new UsageError(`"${verb}" is none of ${Object.keys(VERBS).join(", ")}`);
    return run(rest);
  },
};

const VERBS: Record<string, (argv: string[]) => Promise<number>> = {
  pin: (argv) => pinned(argv, true),
  unpin: (argv) => pinned(argv, false),
  rm: remove,
  prune,
};

async function pinned(argv: string[], value: boolean): Promise<number> {
  const { values, positionals } = parse(argv, { host: { type: "string" } });
  const [name = ""] = exactly(positionals, 1, "IMAGE");
  return change("POST", "/v1/images/pin", { image: name, pinned: value, ...only(values) });
}

async function remove(argv: string[]): Promise<number> {
  const { values, positionals } = parse(argv, { host: { type: "string" } });
  const [name = ""] = exactly(positionals, 1, "IMAGE");
  const query = values.host === undefined ? "" : `?host=${encodeURIComponent(values.host)}`;
  return change("DELETE", `/v1/images/${encodeURIComponent(name)}${query}`);
}

async function prune(argv: string[]): Promise<number> {
  const { values, positionals } = parse(argv, {
    host: { type: "string" },
    all: { type: "boolean" },
  });
  exactly(positionals, 0, "");
  return change("POST", "/v1/images/prune", { ...only(values), all: values.all === true });
}

/** Waits for every host, and says what each has done. */
async function change(method: string, path: string, body?: object): Promise<number> {
  const client = Client.fromEnvironment();
  const options = body === undefined ? {} : { body };
  const jobs = await followJobs(client, await client.call(method, path, ImageJob.array(), options));
  for (const job of jobs.filter(({ state }) => state === "done")) await out(lineOf(job));
  return exitCode(jobs);
}

function lineOf({ kind, host_name: host, removed, bytes: freed, digest }: ImageJob): string {
  if (kind === "prune" || kind === "remove")
    return `${host}: ${removed ?? 0} images removed, ${bytes(freed ?? 0)} freed\n`;
  return `${host}: ${digest ?? ""}\n`;
}

/** Without what was not given. */
function only<T extends Record<string, string | boolean | undefined>>(values: T): Partial<T> {
  return Object.fromEntries(
    Object.entries(values).filter(([, value]) => value !== undefined),
  ) as Partial<T>;
}

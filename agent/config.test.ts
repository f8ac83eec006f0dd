import { expect, test } from "bun:test";
import { LvError } from "../proto/errors.ts";
import { loadAgentConfig } from "./config.ts";

test("an empty environment gives the documented defaults", () => {
  const config = loadAgentConfig({});
  expect(config).toMatchObject({
    controlPlaneAddr: "127.0.0.1:8090",
    insecureLink: false,
    dir: "/var/lib/leveret/agent",
    labels: {},
    kernelPath: null,
    initrdPath: null,
    kernelArgs: "",
    kvmKind: "direct",
    logLevel: "info",
  });
  expect(config.kernelDirs).toEqual([`${config.cacheDir}/kernels`]);
  expect(config.capacity.cpus).toBeGreaterThan(0);
  expect(config.capacity.memoryMib).toBeGreaterThan(0);
  expect(config.capacity.diskMib).toBeGreaterThan(0);
});

test("what is set is taken", () => {
  const config = loadAgentConfig({
    CONTROL_PLANE_GRPC_ADDR: "[::1]:9",
    LEVERET_INSECURE_LINK: "1",
    LEVERET_HOST_LABELS: "zone=a, rack=7",
    LEVERET_KERNEL_DIRS: "/a:/b",
    LEVERET_MEMORY_MIB: "64",
    LEVERET_IO_MAX: "rbps=1048576,wiops=100",
  });
  expect(config.controlPlaneAddr).toBe("[::1]:9");
  expect(config.insecureLink).toBe(true);
  expect(config.labels).toEqual({ zone: "a", rack: "7" });
  expect(config.kernelDirs).toEqual(["/a", "/b"]);
  expect(config.capacity.memoryMib).toBe(64);
  expect(config.ioMax).toBe("rbps=1048576 wiops=100");
});

test("machines on a bridge need its name and their jails", () => {
  const tap = { LEVERET_NET: "tap", LEVERET_BRIDGE: "br0" };
  expect(loadAgentConfig(tap)).toMatchObject({ passt: null, bridge: "br0", resolver: null });
  const resolver = "9.9.9.9";
  expect(loadAgentConfig({ ...tap, LEVERET_RESOLVER: resolver }).resolver).toBe(resolver);
  expect(() => loadAgentConfig({ LEVERET_NET: "tap" })).toThrow(/^LEVERET_BRIDGE="": expected/);
  expect(() => loadAgentConfig({ ...tap, LEVERET_JAIL: "off" })).toThrow(/only with LEVERET_JAIL/);
});

const WRONG: [string, string, string][] = [
  ["CONTROL_PLANE_GRPC_ADDR", "localhost", "host:port"],
  ["CONTROL_PLANE_GRPC_ADDR", "localhost:99999", "host:port"],
  ["LEVERET_AGENT_DIR", "relative", "an absolute path"],
  ["LEVERET_AGENT_DIR", `/${"d".repeat(57)}`, "at most 57 bytes (unix(7), sun_path)"],
  ["LEVERET_CPUS", "two", "a positive integer"],
  ["LEVERET_CPUS", "-1", "a positive integer"],
  ["LEVERET_HOST_LABELS", "zone", "key=value,key=value"],
  ["LEVERET_KERNEL_DIRS", "/a:b", "absolute paths with ':' between"],
  ["LEVERET_KVM_KIND", "soft", '"direct" or "lab"'],
  ["LEVERET_INSECURE_LINK", "yes", "0 or 1"],
  ["LEVERET_IO_MAX", "rbps=fast", "rbps=N,wbps=N,riops=N,wiops=N, or some of them"],
  ["LEVERET_IO_MAX", "rbps=1,rbps=2", "rbps=N,wbps=N,riops=N,wiops=N, or some of them"],
  ["LEVERET_NET", "slirp", '"passt", "tap" or "none"'],
  ["LEVERET_RESOLVER", "dns.example", "an IPv4 address"],
  ["LEVERET_LOG_LEVEL", "loud", "trace, debug, info, warn, error, fatal, silent"],
];
for (const [name, value, wanted] of WRONG)
  test(`${name}="${value}" is refused by name and value`, () => {
    expect(() => loadAgentConfig({ [name]: value })).toThrow(
      new LvError("CONFIG_INVALID", `${name}="${value}": expected ${wanted}`),
    );
  });

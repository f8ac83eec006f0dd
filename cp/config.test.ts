import { expect, test } from "bun:test";
import { checkLink, isLoopback, loadConfig } from "./config.ts";

test("without any variable the documented defaults hold", () => {
  expect(loadConfig({})).toEqual({
    httpHost: "127.0.0.1",
    httpPort: 8080,
    grpcHost: "127.0.0.1",
    grpcPort: 8090,
    insecureLink: false,
    grpcNames: [],
    secretKey: null,
    databaseUrl: null,
    listenUrl: null,
    replicaUrl: null,
    dataDir: "/var/lib/leveret/cp",
    bootstrapToken: null,
    lostAfterS: 3_600,
    logLevel: "info",
  });
});

test("a wrong value is refused by name and value", () => {
  expect(() => loadConfig({ HTTP_PORT: "99999" })).toThrow('HTTP_PORT="99999"');
  expect(() => loadConfig({ LEVERET_INSECURE_LINK: "yes" })).toThrow('LEVERET_INSECURE_LINK="yes"');
});

test("a wrong database address is refused without its password", () => {
  const load = (): unknown => loadConfig({ DATABASE_URL: "mysql://u:secret@h/d" });
  expect(load).toThrow("DATABASE_URL: ");
  expect(load).not.toThrow("secret");
  expect(() => loadConfig({ LEVERET_BOOTSTRAP_TOKEN: "lvt_secret" })).not.toThrow("lvt_secret");
});

test("a secret key that is none is refused without being repeated", () => {
  const load = (): unknown => loadConfig({ LEVERET_SECRET_KEY: "0123secret" });
  expect(load).toThrow("LEVERET_SECRET_KEY: expected 64 hexadecimal digits");
  expect(load).not.toThrow("0123secret");
});

test("names for the hub's certificate are separated by commas", () => {
  expect(loadConfig({ LEVERET_GRPC_NAMES: "cp.example, 10.0.0.1," }).grpcNames).toEqual([
    "cp.example",
    "10.0.0.1",
  ]);
});

test("the plain link is refused off loopback, TLS is not", () => {
  checkLink(loadConfig({ LEVERET_GRPC_HOST: "0.0.0.0" }));
  const open = loadConfig({ LEVERET_INSECURE_LINK: "1", LEVERET_GRPC_HOST: "0.0.0.0" });
  expect(() => checkLink(open)).toThrow('LEVERET_GRPC_HOST="0.0.0.0"');
  checkLink(loadConfig({ LEVERET_INSECURE_LINK: "1" }));
});

test("loopback is told from names that only look like it", () => {
  for (const host of ["127.0.0.1", "127.9.8.7", "::1", "localhost"])
    expect(isLoopback(host)).toBe(true);
  for (const host of ["0.0.0.0", "127.0.0.1.example.com", "::", "10.0.0.1", "128.0.0.1"])
    expect(isLoopback(host)).toBe(false);
});

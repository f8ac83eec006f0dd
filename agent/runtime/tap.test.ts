import { expect, test } from "bun:test";
import { TAP_FD } from "../../proto/vmm.ts";
import { type Bridge, openBridge, tapNetwork } from "./tap.ts";

const bridge: Bridge = { name: "br0", gateway: "10.88.0.1", prefix: 24, resolver: "9.9.9.9" };
const addressOf = (of: Bridge, number: number): string =>
  tapNetwork(of, "mch_1", 1_900_000_000 + number, number).device.address;

test("every machine has an address of its own, between the network's and the broadcast", () => {
  const seen = Array.from({ length: 253 }, (_, number) => addressOf(bridge, number));
  expect(seen[0]).toBe("10.88.0.2/24");
  expect(seen.at(-1)).toBe("10.88.0.254/24");
  expect(new Set(seen).size).toBe(253);
  expect(() => addressOf(bridge, 253)).toThrow(expect.objectContaining({ reason: "NO_CAPACITY" }));
  // A bridge in the middle of its subnet keeps its address.
  const middle = { ...bridge, gateway: "10.88.0.100" };
  expect([98, 99].map((number) => addressOf(middle, number))).toEqual([
    "10.88.0.99/24",
    "10.88.0.101/24",
  ]);
  expect(addressOf({ ...bridge, prefix: 16 }, 65_532)).toBe("10.88.255.254/16");
});

test("a machine is told its interface, its gateway and its resolver", () => {
  const { device, resolvConf } = tapNetwork(bridge, "mch_1", 1_900_000_007, 7);
  expect(device).toMatchObject({ kind: "tap", name: "lv1900000007", fd: TAP_FD });
  expect(device.gateway).toBe("10.88.0.1");
  expect(device.mac).toMatch(/^02(:[0-9a-f]{2}){5}$/);
  expect(device.name.length).toBeLessThan(16);
  expect(resolvConf).toBe("nameserver 9.9.9.9\n");
});

test("a bridge has to be there, with an address", () => {
  const address = {
    address: "10.88.0.1",
    netmask: "255.255.0.0",
    family: "IPv4" as const,
    mac: "00:00:00:00:00:00",
    internal: false,
    cidr: "10.88.0.1/16",
  };
  expect(openBridge("br0", "1.1.1.1", { br0: [address] })).toEqual({
    name: "br0",
    gateway: "10.88.0.1",
    prefix: 16,
    resolver: "1.1.1.1",
  });
  for (const interfaces of [{}, { br0: [] }])
    expect(() => openBridge("br0", null, interfaces)).toThrow(/LEVERET_BRIDGE="br0".*ip link add/);
});

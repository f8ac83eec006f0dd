/**
 * Machines on a bridge of the host: what each is told about its network. The interface
 * itself is made by the jail (native/jail/tap.c) and goes with the machine's process.
 *
 * The bridge is the operator's, with its address, routes and filters; an address of its
 * subnet follows from the machine's user number, of which no two machines of a host
 * have the same. Machines do not hear each other: their ports are isolated.
 */
import { readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { LvError } from "../../proto/errors.ts";
import { TAP_FD } from "../../proto/vmm.ts";
import { macOf, type Network } from "./passt.ts";

const MTU = 1_500;

export type Bridge = {
  name: string;
  /** The bridge's own address, which is the machines' way out, and its prefix. */
  gateway: string;
  prefix: number;
  /** IPv4. */
  resolver: string;
};

const toNumber = (address: string): number =>
  address.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
const toAddress = (number: number): string =>
  [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256).join(".");

/** Throws CONFIG_INVALID when there is no such interface, or it has no IPv4 address. */
export function openBridge(
  name: string,
  resolver: string | null,
  interfaces = networkInterfaces(),
): Bridge {
  const found = interfaces[name]?.find((address) => address.family === "IPv4");
  if (found?.cidr === undefined || found.cidr === null)
    throw new LvError(
      "CONFIG_INVALID",
      `LEVERET_BRIDGE="${name}": it is not there, not up or has no IPv4 address: ` +
        `ip link add ${name} type bridge; ip addr add 10.88.0.1/16 dev ${name}; ip link set ${name} up`,
    );
  const prefix = Number(found.cidr.split("/")[1]);
  const gateway = found.address;
  return { name, gateway, prefix, resolver: resolver ?? hostResolver() ?? gateway };
}

/** The first that is not this host itself: a machine's loopback is its own. */
function hostResolver(path = "/etc/resolv.conf"): string | null {
  try {
    const found = readFileSync(path, "utf8").matchAll(/^nameserver\s+(\d+(?:\.\d+){3})\s*$/gm);
    return [...found].map((match) => match[1] ?? "").find((it) => !it.startsWith("127.")) ?? null;
  } catch {
    return null; // a host without one
  }
}

/** number: of the machine among those of the host. Throws NO_CAPACITY past the subnet's end. */
export function tapNetwork(
  { gateway, prefix, resolver }: Bridge,
  machineId: string,
  uid: number,
  number: number,
): Network {
  const size = 2 ** (32 - prefix);
  const own = toNumber(gateway);
  const first = Math.floor(own / size) * size + 1;
  const at = first + number < own ? first + number : first + number + 1;
  if (at >= first + size - 2)
    throw new LvError(
      "NO_CAPACITY",
      `The bridge's subnet ${gateway}/${prefix} has no address for machine ${number + 1} of this host`,
    );
  return {
    device: {
      kind: "tap",
      name: `lv${uid}`,
      fd: TAP_FD,
      mac: macOf(machineId),
      mtu: MTU,
      address: `${toAddress(at)}/${prefix}`,
      gateway,
    },
    resolvConf: `nameserver ${resolver}\n`,
  };
}

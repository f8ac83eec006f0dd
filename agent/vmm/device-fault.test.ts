import { expect, test } from "bun:test";
import { DEVICE_FAULT } from "../../native/abi.gen.ts";
import { deviceFault } from "./device-fault.ts";

test("every fault of a device has a name and a sentence of its own", () => {
  const texts = Object.values(DEVICE_FAULT).map(deviceFault);
  for (const text of texts) expect(text).toMatch(/^[A-Z_]+, [a-z]/);
  expect(new Set(texts).size).toBe(texts.length);
  expect(deviceFault(99)).toBe("fault 99");
});

import { expect, test } from "bun:test";
import {
  base32,
  createJoinToken,
  formatJoinToken,
  hostIdOfUris,
  hostUri,
  parseJoinToken,
} from "./identity.ts";
import { HostId } from "./ids.ts";

test("a join token is read back as it was written", () => {
  const token = createJoinToken(base32(new Uint8Array(32).fill(0xa5)));
  expect(parseJoinToken(formatJoinToken(token))).toEqual(token);
});

test("what is not exactly a join token is refused, without being repeated", () => {
  const good = formatJoinToken(createJoinToken(base32(new Uint8Array(32))));
  for (const text of ["", "lvj_", good.slice(0, -1), `${good}0`, good.replace("lvj", "lvt")])
    expect(() => parseJoinToken(text)).toThrow("That is not a join token (lvj_…)");
});

test("base32 takes five bits a character", () => {
  expect(base32(new Uint8Array([0xff]))).toBe("zw");
  expect(base32(new Uint8Array(5))).toBe("00000000");
  expect(base32(new Uint8Array(32)).length).toBe(52);
});

test("a name is one host's, or nobody's", () => {
  const id = HostId.create();
  expect(hostIdOfUris([hostUri(id)])).toBe(id);
  for (const uris of [
    [],
    [hostUri(id), hostUri(id)],
    ["spiffe://leveret/hub"],
    [`${hostUri(id)}/x`],
  ])
    expect(hostIdOfUris(uris)).toBeNull();
});

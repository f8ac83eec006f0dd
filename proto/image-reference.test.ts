import { describe, expect, test } from "bun:test";
import { formatReference, parseReference } from "./image-reference.ts";

const HEX = "a".repeat(64);

describe("parseReference", () => {
  const normal: [string, string][] = [
    ["busybox", "docker.io/library/busybox:latest"],
    ["busybox:1.36", "docker.io/library/busybox:1.36"],
    ["user/app", "docker.io/user/app:latest"],
    ["docker.io/busybox", "docker.io/library/busybox:latest"],
    ["index.docker.io/user/app:x", "docker.io/user/app:x"],
    ["localhost/app", "localhost/app:latest"],
    ["127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"],
    ["[::1]:5000/a/b:c", "[::1]:5000/a/b:c"],
    ["ghcr.io/a/b/c:v1.2-rc_3", "ghcr.io/a/b/c:v1.2-rc_3"],
    [`x.io/a@sha256:${HEX}`, `x.io/a@sha256:${HEX}`],
    [`x.io/a:tag@sha256:${HEX}`, `x.io/a@sha256:${HEX}`],
    ["a__b/c--d.e", "docker.io/a__b/c--d.e:latest"],
  ];
  for (const [text, expected] of normal)
    test(`"${text}" is ${expected}`, () => {
      expect(formatReference(parseReference(text))).toBe(expected);
    });

  const wrong = [
    "",
    "UPPER",
    "a/../b",
    "x.io/",
    "x.io/a//b",
    "a b",
    "app:",
    "app:ta/g:",
    `app:${"t".repeat(129)}`,
    "app@sha256:abc",
    `app@sha512:${HEX}`,
    "x.io:99999/a",
    "-x.io/a",
    "http://x.io/a",
    "app\n",
    `x.io/${"a".repeat(256)}`,
    "a".repeat(2000),
  ];
  for (const text of wrong)
    test(`${JSON.stringify(text.slice(0, 40))} is refused`, () => {
      expect(() => parseReference(text)).toThrow(
        expect.objectContaining({ reason: "IMAGE_REFERENCE_INVALID" }),
      );
    });
});

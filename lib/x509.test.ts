import { beforeAll, expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import * as x509 from "./x509.ts";

const NOW = Date.parse("2026-11-23T12:00:00Z");
const validity = { notBefore: new Date(NOW - 3_600_000), notAfter: new Date(NOW + 86_400_000) };
const PEM = /-----[^-]+-----|\s/g;

let ca: x509.Authority;
let other: x509.Authority;
beforeAll(async () => {
  ca = await x509.createAuthority("ours", validity);
  other = await x509.createAuthority("ours", validity);
});

async function leaf(authority: x509.Authority): Promise<X509Certificate> {
  const der = await x509.issue(authority, {
    ...validity,
    subject: "h",
    usage: "client",
    publicKey: x509.publicKeyOf(await x509.createKey()),
    names: [{ type: "url", value: "spiffe://leveret/host/h" }],
  });
  return new X509Certificate(der);
}

test("a certificate is its CA's, within its time, and carries its names", async () => {
  const certificate = await leaf(ca);
  const authority = new X509Certificate(ca.certificate);
  expect(x509.isIssuedBy(certificate, authority, NOW)).toBe(true);
  expect(x509.isIssuedBy(certificate, authority, NOW - 7_200_000)).toBe(false);
  expect(x509.isIssuedBy(certificate, authority, NOW + 86_400_000)).toBe(false);
  expect(x509.urisOf(certificate)).toEqual(["spiffe://leveret/host/h"]);
  expect(certificate.ca).toBe(false);
  expect(authority.ca).toBe(true);
});

test("another CA of the same name has not issued it", async () => {
  const authority = new X509Certificate(ca.certificate);
  expect(x509.isIssuedBy(await leaf(other), authority, NOW)).toBe(false);
});

test("a request gives its key, and nothing when a byte was changed", async () => {
  const key = await x509.createKey();
  const request = await x509.createRequest(key, "anything");
  expect(await x509.keyOfRequest(request)).toEqual(x509.publicKeyOf(key));
  const forged = request.with(40, (request[40] ?? 0) ^ 1);
  expect(await x509.keyOfRequest(forged)).toBeNull();
  expect(await x509.keyOfRequest(new Uint8Array([1, 2, 3]))).toBeNull();
  expect(await x509.keyOfRequest(new Uint8Array())).toBeNull();
});

test("PEM is base64 in lines between its labels", () => {
  const der = Uint8Array.from({ length: 100 }, (_, index) => index);
  const text = x509.pem(der, "CERTIFICATE");
  expect(text.split("\n").every((line) => line.length <= 64)).toBe(true);
  expect([...Buffer.from(text.replaceAll(PEM, ""), "base64")]).toEqual([...der]);
});

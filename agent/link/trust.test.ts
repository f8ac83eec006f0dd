import { expect, test } from "bun:test";
import type { PeerCertificate } from "node:tls";
import * as x509 from "../../lib/x509.ts";
import { HUB_URI } from "../../proto/identity.ts";
import { checkHub } from "./trust.ts";

test("only a certificate with the hub's name is the hub's, whatever its use", async () => {
  const validity = { notBefore: new Date(0), notAfter: new Date(Date.now() + 86_400_000) };
  const ca = await x509.createAuthority("a", validity);
  const shown = async (uri: string): Promise<PeerCertificate> => {
    const raw = await x509.issue(ca, {
      ...validity,
      subject: "s",
      usage: "server",
      publicKey: x509.publicKeyOf(await x509.createKey()),
      names: [
        { type: "url", value: uri },
        { type: "dns", value: "localhost" },
      ],
    });
    return { raw: Buffer.from(raw) } as PeerCertificate;
  };
  expect(checkHub("localhost", await shown(HUB_URI))).toBeUndefined();
  for (const uri of ["spiffe://leveret/host/hst_x", `${HUB_URI}/x`, "spiffe://other/hub"])
    expect(checkHub("localhost", await shown(uri))?.message).toContain(
      "not that of a control plane",
    );
});

/** One address in front of several hubs: each connection goes where `to` points when it comes. */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

export class Balancer implements AsyncDisposable {
  /** host:port */
  to: string;
  address = "";
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((near) => this.#join(near));

  private constructor(to: string) {
    this.to = to;
  }

  static async start(to: string): Promise<Balancer> {
    const balancer = new Balancer(to);
    await new Promise<void>((resolve) => balancer.#server.listen(0, "127.0.0.1", resolve));
    balancer.address = `127.0.0.1:${(balancer.#server.address() as AddressInfo).port}`;
    return balancer;
  }

  #join(near: Socket): void {
    const [host = "", port = ""] = this.to.split(":");
    const far = connect({ host, port: Number(port) });
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(from);
      from.on("close", () => {
        this.#sockets.delete(from);
        to.destroy();
      });
      // The close that follows is what counts.
      from.on("error", () => undefined);
      from.pipe(to);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

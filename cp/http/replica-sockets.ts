/** The WebSockets of the REST listener: sessions that another replica passes on, nothing else. */
import { LIMITS } from "../../lib/limits.ts";
import { FramePipe } from "../hub/frame-pipe.ts";

/** Of one connection. `pipe` is there from its opening on. */
export type ReplicaSocket = { serve: (pipe: FramePipe) => void; pipe: FramePipe | null };

/** Makes the request a WebSocket; false when it does not ask for one. */
export type Upgrade = (socket: ReplicaSocket) => boolean;

export const REPLICA_SOCKETS: Bun.WebSocketHandler<ReplicaSocket> = {
  maxPayloadLength: LIMITS.frameBytes,
  // Never reached by what a pipe sends: its window is smaller.
  backpressureLimit: 2 * LIMITS.frameBytes,
  closeOnBackpressureLimit: true,
  perMessageDeflate: false,
  // The pipes beat by themselves, both ways.
  idleTimeout: 0,
  sendPings: false,
  open: (socket) => {
    const { data } = socket;
    data.pipe = new FramePipe({
      // A message that is not taken closes the connection.
      send: (message) => void socket.send(message),
      close: () => socket.terminate(),
    });
    data.serve(data.pipe);
  },
  message: ({ data }, message) => data.pipe?.received(message),
  close: ({ data }) => data.pipe?.closed(),
};

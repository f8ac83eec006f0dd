/** Writing to the terminal with backpressure; the only door to stdout and stderr. */
export type Bytes = string | Uint8Array;

function write(stream: NodeJS.WriteStream, data: Bytes): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    stream.write(data, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

export const out = (data: Bytes): Promise<void> => write(process.stdout, data);
export const err = (data: Bytes): Promise<void> => write(process.stderr, data);

/** True where a line may be rewritten in place: a person looks at standard error. */
export function isLive(): boolean {
  return process.stderr.isTTY && (process.env["CI"] ?? "") === "" && process.env["TERM"] !== "dumb";
}

/** `lev ps | head -1` must end quietly, as any Unix program. */
export function endQuietlyOnBrokenPipe(): void {
  for (const stream of [process.stdout, process.stderr])
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EPIPE") process.exit(141);
      throw error;
    });
}

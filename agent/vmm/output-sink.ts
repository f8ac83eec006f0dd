/**
 * Output frames → output.log. A disk that is full must not end the machine: what
 * cannot be written is counted, and said in the log once there is room again.
 */
import { OUTPUT_STREAM, OutputLogWriter } from "../../lib/output-log.ts";
import { errorText } from "./errors.ts";

export class OutputSink {
  readonly #writer: OutputLogWriter;
  readonly #incarnation: number;
  readonly #log: (line: string) => void;
  #lostBytes = 0;

  constructor(
    path: string,
    spec: { incarnation: number; outputLimitBytes: number },
    log: (line: string) => void,
  ) {
    this.#writer = OutputLogWriter.open(path, spec.outputLimitBytes);
    this.#incarnation = spec.incarnation;
    this.#log = log;
  }

  append(stream: "stdout" | "stderr", data: Uint8Array): void {
    try {
      if (this.#lostBytes > 0) {
        const note = `[${this.#lostBytes} bytes of output were lost: the host's disk was full]\n`;
        this.#write(OUTPUT_STREAM.system, new TextEncoder().encode(note));
        this.#lostBytes = 0;
      }
      this.#write(OUTPUT_STREAM[stream], data);
    } catch (error) {
      if (this.#lostBytes === 0) this.#log(`Cannot write output: ${errorText(error)}`);
      this.#lostBytes += data.length;
    }
  }

  close(): void {
    this.#writer.close();
  }

  #write(stream: number, data: Uint8Array): void {
    this.#writer.append(stream, this.#incarnation, Date.now(), data);
  }
}

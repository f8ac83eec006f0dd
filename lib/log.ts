/** One JSON line per event on standard error. No secrets; no console.log anywhere else. */
import { destination, pino, type Logger } from "pino";

export type Log = Logger;

/** `level` as pino names it; LEVERET_LOG_LEVEL is read by the callers' config. */
export function createLog(name: string, level = "info"): Log {
  return pino(
    { name, level, timestamp: pino.stdTimeFunctions.isoTime, base: { name, pid: process.pid } },
    destination({ fd: 2, sync: true }),
  );
}

/** For tests and for code that is called without a log. */
export function silentLog(): Log {
  return pino({ level: "silent" });
}

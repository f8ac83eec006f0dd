/** How things look in the terminal. Pure. */
import type { Machine } from "../proto/rest.ts";

/** Columns as wide as their widest cell, two spaces between, nothing after the last. */
export function table(header: string[], rows: string[][]): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) =>
    Math.max(...all.map((row) => (row[column] ?? "").length)),
  );
  return all
    .map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  "))
    .map((line) => `${line.trimEnd()}\n`)
    .join("");
}

/** 850 µs · 12.3 ms · 1.25 s · 2 m 05 s · 3 h 04 m · 5 d */
export function duration(ms: number): string {
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 1000) return `${ms.toFixed(ms < 100 ? 1 : 0)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} m ${pad(Math.floor(seconds % 60))} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${pad(minutes % 60)} m`;
  return `${Math.floor(hours / 24)} d`;
}

const pad = (value: number): string => String(value).padStart(2, "0");

/** How long ago an ISO time was, in whole seconds at the finest; "" for null. */
export function age(iso: string | null, now: number): string {
  if (iso === null) return "";
  const seconds = Math.max(0, Math.round((now - Date.parse(iso)) / 1000));
  return seconds < 60 ? `${seconds} s` : duration(seconds * 1000);
}

/** 512 B · 3.4 KiB · 120 MiB */
export function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ""}`;
}

export function mib(count: number): string {
  return bytes(count * 1024 * 1024);
}

type Progress = NonNullable<Machine["image_progress"]>;

/** ", 2 of 5 layers" as far as it is known. */
export function layersOf({ layers, layers_done: done }: Progress): string {
  if (layers === 0) return "";
  return done > 0 ? `, ${done} of ${layers} layers` : `, ${layers} layers`;
}

/** lev: pulling app [====>     ] 45 % of 30 MiB, 2 of 5 layers, 5.2 MiB/s, 3.10 s left */
export function progressLine(name: string, progress: Progress, bar: boolean): string {
  const { phase, bytes_done: done, bytes_total: total, bytes_per_second: rate } = progress;
  if (phase === "queued")
    return `lev: queued ${name}: ${progress.queue_position} in the queue of its host`;
  const share = total > 0 ? Math.min(done / total, 1) : 0;
  const known =
    total > 0
      ? `${bar ? ` ${barOf(share)}` : ""} ${Math.floor(share * 100)} % of ${bytes(total)}`
      : "";
  const speed = rate > 0 ? `, ${bytes(rate)}/s` : "";
  const left =
    rate > 0 && total > done ? `, ${duration(((total - done) * 1_000) / rate)} left` : "";
  return `lev: ${phase} ${name}${known}${layersOf(progress)}${speed}${left}`;
}

const BAR_WIDTH = 20;

function barOf(share: number): string {
  const full = Math.floor(share * BAR_WIDTH);
  const head = full < BAR_WIDTH ? ">" : "";
  return `[${"=".repeat(full)}${head}${" ".repeat(BAR_WIDTH - full - head.length)}]`;
}

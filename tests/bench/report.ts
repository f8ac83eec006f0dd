/** Figures of benchmarks: the table for people and the JSON lines for programs. */
export type Figure = {
  bench: string;
  figure: string;
  ours: number;
  /** Null where there is nothing to compare with. */
  peer: number | null;
  /** ours / peer */
  ratio: number | null;
  unit: string;
  n: number;
  /** Interquartile range over the median, the larger one of both sides. */
  spread: number;
};

export function median(samples: readonly number[]): number {
  return quantile(samples, 0.5);
}

/** Linear interpolation between the order statistics. */
export function quantile(samples: readonly number[], q: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  const high = sorted[Math.ceil(at)] ?? Number.NaN;
  return low + (high - low) * (at - Math.floor(at));
}

export function spreadOf(samples: readonly number[]): number {
  return (quantile(samples, 0.75) - quantile(samples, 0.25)) / median(samples);
}

const round = (value: number, digits = 3): number => Number(value.toFixed(digits));

export function makeFigure(
  names: { bench: string; figure: string; unit: string },
  ours: readonly number[],
  peer: readonly number[] | null,
): Figure {
  const mine = median(ours);
  const theirs = peer === null ? null : median(peer);
  return {
    ...names,
    ours: round(mine),
    peer: theirs === null ? null : round(theirs),
    ratio: theirs === null ? null : round(mine / theirs),
    n: ours.length,
    spread: round(Math.max(spreadOf(ours), peer === null ? 0 : spreadOf(peer))),
  };
}

export function printFigures(figures: readonly Figure[], json: boolean): void {
  if (json) {
    for (const figure of figures) process.stdout.write(`${JSON.stringify(figure)}\n`);
    return;
  }
  const head = ["figure", "ours", "peer", "ratio", "unit", "n", "spread"];
  const rows = figures.map(({ figure, ours, peer, ratio, unit, n, spread }) =>
    [figure, ours, peer ?? "-", ratio ?? "-", unit, n, `${Math.round(spread * 100)} %`].map(String),
  );
  const widths = head.map((title, i) =>
    Math.max(title.length, ...rows.map((row) => (row[i] ?? "").length)),
  );
  for (const row of [head, ...rows]) {
    const cells = row.map((cell, i) =>
      i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0),
    );
    process.stdout.write(`${cells.join("  ")}\n`);
  }
}

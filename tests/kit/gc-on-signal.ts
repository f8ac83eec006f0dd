/** Preloaded into a process whose memory is measured. */
process.on("SIGUSR2", () => Bun.gc(true));

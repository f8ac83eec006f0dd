/**
 * Aborts on the first SIGTERM or SIGINT, so that a process can end in order;
 * a second signal ends it at once with the code a shell expects.
 */
export function shutdownSignal(): AbortSignal {
  const controller = new AbortController();
  const on = (name: "SIGTERM" | "SIGINT", number: number): void => {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(128 + number);
      controller.abort(new DOMException(`received ${name}`, "AbortError"));
    });
  };
  on("SIGTERM", 15);
  on("SIGINT", 2);
  return controller.signal;
}

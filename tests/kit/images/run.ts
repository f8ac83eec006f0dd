/** Runs a tool of the image kit; throws with what it printed when it fails. */
export async function runTool(argv: string[], cwd = "/"): Promise<string> {
  const child = Bun.spawn(argv, { cwd, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0)
    throw new Error(`${argv.join(" ")} ended with ${code}: ${(err + out).slice(-3000)}`);
  return out;
}

import { expect, test } from "bun:test";
import { Changes } from "./changes.ts";

test("listeners hear their own machine only, until they stop", () => {
  const changes = new Changes();
  const heard: string[] = [];
  const stop = changes.subscribe("a", (change) => heard.push(change.id));
  changes.publish({ kind: "machine", id: "a", state: "started" });
  changes.publish({ kind: "host", id: "b" });
  expect(heard).toEqual(["a"]);
  stop();
  stop();
  changes.publish({ kind: "machine", id: "a", state: "stopped" });
  expect(heard).toEqual(["a"]);
  expect(changes.size).toBe(0);
});

test("a listener may stop itself while it is called", () => {
  const changes = new Changes();
  let calls = 0;
  const stop = changes.subscribe("a", () => {
    calls += 1;
    stop();
  });
  changes.subscribe("a", () => (calls += 10));
  changes.publish({ kind: "host", id: "a" });
  changes.publish({ kind: "host", id: "a" });
  expect(calls).toBe(21);
});

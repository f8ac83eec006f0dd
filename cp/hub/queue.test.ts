import { expect, test } from "bun:test";
import { Queue } from "./queue.ts";

test("items come out in order, those queued before a close included", async () => {
  const queue = new Queue<number>(10);
  queue.push(1);
  queue.push(2);
  queue.close();
  expect(queue.push(3)).toBe(false);
  expect(await Array.fromAsync(queue)).toEqual([1, 2]);
});

test("a full queue takes nothing until it is read", async () => {
  const queue = new Queue<number>(1);
  expect(queue.push(1)).toBe(true);
  expect(queue.push(2)).toBe(false);
  const reader = queue[Symbol.asyncIterator]();
  expect((await reader.next()).value).toBe(1);
  expect(queue.push(3)).toBe(true);
});

test("a reader that waits is woken by a push and by a close", async () => {
  const queue = new Queue<number>(1);
  const reader = queue[Symbol.asyncIterator]();
  const first = reader.next();
  queue.push(7);
  expect(await first).toEqual({ done: false, value: 7 });
  const second = reader.next();
  queue.close();
  expect((await second).done).toBe(true);
});

import { expect, test } from "bun:test";
import { MACHINE_STATES, type MachineState } from "../../proto/states.ts";
import {
  canReach,
  holdsCapacity,
  isNews,
  nextDesired,
  nextState,
  remedy,
  type Observed,
  type Report,
} from "./machine.ts";

function row(changes: Partial<Observed> = {}): Observed {
  return {
    desiredState: "started",
    desiredGeneration: 2,
    observedState: "starting",
    observedGeneration: 1,
    observedSequence: 5,
    ...changes,
  };
}

function report(changes: Partial<Report> = {}): Report {
  return {
    state: "started",
    generation: 2,
    incarnation: 1,
    sequence: 6,
    reason: null,
    message: null,
    exit: null,
    imageDigest: null,
    bootUs: null,
    startedAtMs: null,
    stoppedAtMs: null,
    ...changes,
  };
}

test("only a larger sequence is news, but an inventory may repeat the newest", () => {
  expect(isNews(row(), report({ sequence: 6 }), false)).toBe(true);
  expect(isNews(row(), report({ sequence: 5 }), false)).toBe(false);
  expect(isNews(row(), report({ sequence: 5 }), true)).toBe(true);
  expect(isNews(row(), report({ sequence: 4 }), true)).toBe(false);
});

test("the end of a former run does not undo a newer request to start", () => {
  const old = report({ state: "stopped", generation: 1 });
  expect(nextState(row(), old)).toBe("starting");
  expect(nextDesired(row(), old)).toBe("started");
});

test("a run that ends by itself is not wanted any more", () => {
  for (const state of ["stopped", "failed"] as const) {
    const ended = report({ state });
    expect(nextState(row({ observedState: "started" }), ended)).toBe(state);
    expect(nextDesired(row({ observedState: "started" }), ended)).toBe("stopped");
  }
});

test("an old report of a live machine does not hide that it was asked to stop", () => {
  const asked = row({ desiredState: "stopped", observedState: "stopping" });
  expect(nextState(asked, report({ state: "started", generation: 1 }))).toBe("stopping");
  expect(nextState(asked, report({ state: "stopped", generation: 1 }))).toBe("stopped");
});

test("the host's word replaces unknown", () => {
  for (const state of ["starting", "started", "stopping", "stopped", "failed"] as const)
    expect(nextState(row({ observedState: "unknown" }), report({ state }))).toBe(state);
});

test("a machine that is being destroyed only becomes destroyed, and stays it", () => {
  const going = row({ desiredState: "destroyed", observedState: "destroying" });
  expect(nextState(going, report({ state: "started" }))).toBe("destroying");
  expect(nextState(going, report({ state: "destroyed", generation: 1 }))).toBe("destroyed");
  const gone = row({ desiredState: "destroyed", observedState: "destroyed" });
  expect(nextState(gone, report({ state: "started" }))).toBe("destroyed");
});

test("no state and no report make nextState throw", () => {
  for (const observedState of MACHINE_STATES)
    for (const state of MACHINE_STATES)
      for (const generation of [1, 2])
        expect(MACHINE_STATES).toContain(
          nextState(row({ observedState }), report({ state, generation })),
        );
});

test("capacity is held while a run may be alive", () => {
  expect(holdsCapacity("started", false)).toBe(true);
  expect(holdsCapacity("stopped", true)).toBe(false);
  expect(holdsCapacity("failed", true)).toBe(false);
  expect(holdsCapacity("unknown", true)).toBe(true);
  expect(holdsCapacity("destroying", true)).toBe(true);
  expect(holdsCapacity("destroying", false)).toBe(false);
});

test("a wait ends as soon as what it waits for cannot come", () => {
  const reach = (
    observedState: MachineState,
    desiredState: Observed["desiredState"],
    ...wanted: MachineState[]
  ): boolean => canReach({ observedState, desiredState }, new Set(wanted));
  expect(reach("starting", "started", "started")).toBe(true);
  expect(reach("failed", "stopped", "started")).toBe(false);
  expect(reach("failed", "stopped", "failed", "started")).toBe(true);
  expect(reach("stopped", "stopped", "started")).toBe(false);
  expect(reach("started", "started", "stopped")).toBe(true);
  expect(reach("destroyed", "destroyed", "stopped")).toBe(false);
  expect(reach("destroying", "destroyed", "destroyed")).toBe(true);
  expect(reach("unknown", "started", "started")).toBe(true);
});

test("a remedy is asked for only where the host has not had the last word", () => {
  const wanted = (changes: Partial<Observed>) => remedy(row(changes));
  expect(wanted({ observedState: "started" })).toBeNull();
  expect(wanted({ observedState: "stopped", observedGeneration: 1 })).toBe("start");
  expect(wanted({ observedState: "stopped", observedGeneration: 2 })).toBeNull();
  expect(wanted({ desiredState: "stopped", observedState: "started" })).toBe("stop");
  expect(wanted({ desiredState: "stopped", observedState: "unknown" })).toBeNull();
  expect(wanted({ desiredState: "destroyed", observedState: "stopped" })).toBe("destroy");
  expect(wanted({ desiredState: "destroyed", observedState: "destroyed" })).toBeNull();
});

import { LvError } from "../../proto/errors.ts";

/** What the promise was rejected with, as an LvError; throws when it was not rejected. */
export async function failure(promise: Promise<unknown>): Promise<LvError> {
  try {
    await promise;
  } catch (error) {
    return error instanceof LvError ? error : new LvError("INTERNAL", String(error));
  }
  throw new Error("Expected a rejection");
}

/** The fleet admin's token of every control plane that a test starts. */
export const TEST_TOKEN = `lvt_${"0".repeat(31)}1`;
export const AUTHORIZATION = { authorization: `Bearer ${TEST_TOKEN}` };

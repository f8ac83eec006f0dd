/**
 * Lets guests' memory be in transparent huge pages: it is a memfd, so that more than one
 * mapping may have it, and for those Linux has none until the host is told to
 * (admin-guide/mm/transhuge.rst, shmem_enabled). `advise` is for who asks by madvise, as a
 * VMM does; everybody else's memory stays as it is. Setting `deny` keeps us off.
 */
import { readFileSync, writeFileSync } from "node:fs";

export const SHMEM_HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/** What is set, of a file like `always advise [never]`; "" = no such kernel. */
export function readSetting(path: string = SHMEM_HUGE_PAGES): string {
  try {
    return /\[(\w+)\]/.exec(readFileSync(path, "utf8"))?.[1] ?? "";
  } catch {
    return ""; // without transparent huge pages there is no file
  }
}

/** Root. Throws when the host refuses; machines then run on small pages. */
export function allowSharedHugePages(path: string = SHMEM_HUGE_PAGES): void {
  if (readSetting(path) === "never") writeFileSync(path, "advise");
}

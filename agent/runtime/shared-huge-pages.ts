/**
 * Lets guests' memory be in transparent huge pages: it is a memfd, so that more than one
 * mapping may have it, and for those Linux has none until the host is told to
 * (admin-guide/mm/transhuge.rst, shmem_enabled). `advise` is for who asks by madvise, as a
 * VMM does; everybody else's memory stays as it is. Setting `deny` keeps us off.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { settingIn, SHMEM_HUGE_PAGES } from "../../lib/shmem-huge-pages.ts";

/** "" = no such kernel. */
export function readSetting(path: string = SHMEM_HUGE_PAGES): string {
  try {
    return settingIn(readFileSync(path, "utf8"));
  } catch {
    return ""; // without transparent huge pages there is no file
  }
}

/** Root. Throws when the host refuses; machines then run on small pages. */
export function allowSharedHugePages(path: string = SHMEM_HUGE_PAGES): void {
  if (readSetting(path) === "never") writeFileSync(path, "advise");
}

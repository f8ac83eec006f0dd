/** Transparent huge pages of shared memory (admin-guide/mm/transhuge.rst, shmem_enabled). */
export const SHMEM_HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/** What is set, of the file's text, like `always advise [never]`; "" = nothing. */
export function settingIn(text: string): string {
  return /\[(\w+)\]/.exec(text)?.[1] ?? "";
}

import { CHECK_GROUPS } from "./groups.ts";
import { runGroups } from "./kit/suite.ts";

process.exit(await runGroups(CHECK_GROUPS));

/*
 * users.c - the OCI config's "User" against the image's own files.
 *
 * Forms: "", "user", "uid", "user:group", "uid:gid" and their mixtures. As in
 * runc: a name wins over a number; a number needs no entry; a group that is
 * named replaces the primary group and leaves no supplementary ones, otherwise
 * every group that lists the user is added. glibc's getpwnam is not used: in a
 * static binary it would load NSS modules out of the image.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "init.h"

#define ID_MAX 4294967294u /* (uid_t)-1 means "leave as it is" */

/* Cuts a line of colon-separated fields in place; returns how many there are.
 */
static size_t split(char *line, char **fields, size_t capacity)
{
	size_t count = 0;

	line[strcspn(line, "\r\n")] = '\0';
	while (count < capacity) {
		fields[count++] = line;
		line = strchr(line, ':');
		if (line == NULL)
			break;
		*line++ = '\0';
	}
	return count;
}

static bool parse_id(const char *text, uint32_t *id)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (*end != '\0' || errno != 0 || value > ID_MAX)
		return false;
	*id = (uint32_t)value;
	return true;
}

static bool lists_member(char *members, const char *name)
{
	for (char *member; (member = strsep(&members, ",")) != NULL;)
		if (strcmp(member, name) == 0)
			return true;
	return false;
}

/* Fills user from the first entry that has the name, else the first with the
 * id; false when there is none. */
static bool find_user(const char *path, const char *name, bool numeric,
		      uint32_t id, struct lv_user *user)
{
	char *line = NULL, *fields[7];
	size_t size = 0;
	bool found = false, by_name = false;

	FILE *file = fopen(path, "re");
	if (file == NULL)
		return false;
	while (!by_name && getline(&line, &size, file) > 0) {
		uint32_t uid, gid;
		if (split(line, fields, 7) < 6 || !parse_id(fields[2], &uid) ||
		    !parse_id(fields[3], &gid))
			continue;
		by_name = strcmp(fields[0], name) == 0;
		if (!by_name && (found || !numeric || uid != id))
			continue;
		found = true;
		user->uid = uid;
		user->gid = gid;
		(void)snprintf(user->name, sizeof(user->name), "%s", fields[0]);
		(void)snprintf(user->home, sizeof(user->home), "%s", fields[5]);
	}
	free(line);
	(void)fclose(file);
	return found;
}

static bool find_group(const char *path, const char *name, gid_t *gid)
{
	char *line = NULL, *fields[4];
	size_t size = 0;
	bool found = false;

	FILE *file = fopen(path, "re");
	if (file == NULL)
		return false;
	while (!found && getline(&line, &size, file) > 0) {
		uint32_t id;
		found = split(line, fields, 4) >= 3 &&
			strcmp(fields[0], name) == 0 &&
			parse_id(fields[2], &id);
		if (found)
			*gid = id;
	}
	free(line);
	(void)fclose(file);
	return found;
}

static void add_supplementary(const char *path, struct lv_user *user)
{
	char *line = NULL, *fields[4];
	size_t size = 0;

	FILE *file = fopen(path, "re");
	if (file == NULL)
		return;
	while (user->group_count < LV_GROUPS_MAX &&
	       getline(&line, &size, file) > 0) {
		uint32_t id;
		if (split(line, fields, 4) == 4 && parse_id(fields[2], &id) &&
		    id != user->gid && lists_member(fields[3], user->name))
			user->groups[user->group_count++] = id;
	}
	free(line);
	(void)fclose(file);
}

/* Shared rule for a user's name that is also in the spec of lv_user_resolve. */
static int resolve_name(const char *name, const char *passwd_path,
			struct lv_user *user, struct lv_error *error)
{
	uint32_t id = 0;
	bool numeric = name[0] == '\0' || parse_id(name, &id);

	if (find_user(passwd_path, name, numeric, id, user))
		return 0;
	if (!numeric)
		return lv_fail(error, LV_GUEST_ERROR_USER,
			       "User \"%s\" is not in the image's %s", name,
			       passwd_path);
	user->uid = id;
	return 0;
}

/* The primary group is first in groups, as initgroups(3) has it. */
int lv_user_resolve(const char *spec, const char *passwd_path,
		    const char *group_path, struct lv_user *user,
		    struct lv_error *error)
{
	char name[256];
	const char *colon = strchr(spec, ':');
	size_t length = colon ? (size_t)(colon - spec) : strlen(spec);

	memset(user, 0, sizeof(*user));
	(void)snprintf(user->home, sizeof(user->home), "/");
	if (length >= sizeof(name))
		return lv_fail(error, LV_GUEST_ERROR_USER,
			       "The user's name is longer than %zu bytes",
			       sizeof(name) - 1);
	memcpy(name, spec, length);
	name[length] = '\0';
	if (resolve_name(name, passwd_path, user, error) < 0)
		return -1;
	if (colon != NULL && colon[1] != '\0') {
		uint32_t gid = 0;
		if (!find_group(group_path, colon + 1, &user->gid)) {
			if (!parse_id(colon + 1, &gid))
				return lv_fail(
				    error, LV_GUEST_ERROR_USER,
				    "Group \"%.200s\" is not in the image's %s",
				    colon + 1, group_path);
			user->gid = gid;
		}
		user->groups[user->group_count++] = user->gid;
		return 0;
	}
	user->groups[user->group_count++] = user->gid;
	if (user->name[0] != '\0')
		add_supplementary(group_path, user);
	return 0;
}

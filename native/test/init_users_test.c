/* "User" of an OCI config, resolved as runc does. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <unistd.h>

#include "../init/error.c"
#include "../init/users.c"
#include "init_test.h"

static const char passwd_text[] = "root:x:0:0:root:/root:/bin/sh\n"
				  "# a comment:x\n"
				  "broken:x:abc:1::/:/bin/sh\n"
				  "app:x:1000:1001:App:/home/app:/bin/sh\n"
				  "1000:x:7:8:A number as name:/seven:/bin/sh\n"
				  "last:x:42:43::/last:";
static const char group_text[] = "root:x:0:\n"
				 "wheel:x:10:root,app\n"
				 "app:x:1001:app\n"
				 "video:x:44:nobody,app,last\n"
				 "short:x\n"
				 "20:x:2020:\n";

struct files {
	char passwd[64], group[64];
};

static void write_file(char *path, const char *text)
{
	int fd = mkstemp(path);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		abort();
	(void)close(fd);
}

static int resolve(const struct files *files, const char *spec,
		   struct lv_user *user, struct lv_error *error)
{
	return lv_user_resolve(spec, files->passwd, files->group, user, error);
}

static void names_and_numbers(const struct files *files)
{
	struct lv_user user;
	struct lv_error error;

	CHECK(resolve(files, "", &user, &error) == 0);
	CHECK(user.uid == 0 && user.gid == 0);
	CHECK_TEXT(user.home, "/root");
	CHECK(user.group_count == 2 && user.groups[1] == 10);

	CHECK(resolve(files, "app", &user, &error) == 0);
	CHECK(user.uid == 1000 && user.gid == 1001);
	CHECK_TEXT(user.home, "/home/app");
	CHECK(user.group_count == 3 && user.groups[0] == 1001 &&
	      user.groups[1] == 10 && user.groups[2] == 44);

	/* A name wins over a number. */
	CHECK(resolve(files, "1000", &user, &error) == 0);
	CHECK(user.uid == 7 && user.gid == 8);

	/* The last line lacks its newline and its shell. */
	CHECK(resolve(files, "42", &user, &error) == 0);
	CHECK(user.uid == 42 && user.gid == 43);
	CHECK(user.group_count == 2 && user.groups[1] == 44);

	/* A number needs no entry. */
	CHECK(resolve(files, "31337", &user, &error) == 0);
	CHECK(user.uid == 31337 && user.gid == 0);
	CHECK_TEXT(user.home, "/");
	CHECK(user.group_count == 1 && user.groups[0] == 0);
}

static void groups(const struct files *files)
{
	struct lv_user user;
	struct lv_error error;

	CHECK(resolve(files, "app:video", &user, &error) == 0);
	CHECK(user.uid == 1000 && user.gid == 44 && user.group_count == 1);
	CHECK(resolve(files, "1:2", &user, &error) == 0);
	CHECK(user.uid == 1 && user.gid == 2);
	CHECK(resolve(files, "app:20", &user, &error) == 0);
	CHECK(user.gid == 2020);
	CHECK(resolve(files, ":video", &user, &error) == 0);
	CHECK(user.uid == 0 && user.gid == 44);
}

static void refusals(const struct files *files)
{
	static const char *const bad[] = {"ghost",
					  "app:ghost",
					  "broken",
					  "4294967295",
					  "99999999999999999999",
					  "-1"};
	struct lv_user user;
	struct lv_error error;
	char name[300];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CHECK(resolve(files, bad[i], &user, &error) < 0);
		CHECK(error.code == LV_GUEST_ERROR_USER);
	}
	CHECK(resolve(files, "ghost", &user, &error) < 0);
	CHECK(strstr(error.text, "\"ghost\"") != NULL);
	memset(name, 'a', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	CHECK(resolve(files, name, &user, &error) < 0);
	struct files none = {"/nonexistent/passwd", "/nonexistent/group"};
	CHECK(resolve(&none, "", &user, &error) == 0 && user.uid == 0);
	CHECK(resolve(&none, "app", &user, &error) < 0);
}

int main(void)
{
	struct files files = {"/tmp/lv-passwd-XXXXXX", "/tmp/lv-group-XXXXXX"};

	write_file(files.passwd, passwd_text);
	write_file(files.group, group_text);
	names_and_numbers(&files);
	groups(&files);
	refusals(&files);
	(void)unlink(files.passwd);
	(void)unlink(files.group);
	return init_test_failures != 0;
}

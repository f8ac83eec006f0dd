/*
 * jail.h - what the launcher's files share. Every function below ends the
 * process itself when it cannot do its work: a jail is whole or there is none.
 */
#ifndef JAIL_H
#define JAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>

#define JAIL_FILES_MAX 48

struct jail_file {
	const char *source; /* absolute, resolved by the caller */
	const char *target; /* absolute, in the jail */
	int tree;	    /* a detached copy of its mount */
};

struct jail {
	uid_t uid;	    /* of user and group */
	const char *dir;    /* the machine's own: the one place it may write */
	const char *cgroup; /* NULL = stay in the caller's */
	const char *bridge; /* of the host; NULL = no interface of its own */
	const char *kvm;    /* the host's device */
	rlim_t file_bytes;  /* no file of it grows beyond */
	size_t count;
	struct jail_file file[JAIL_FILES_MAX];
	char **argv; /* what is executed, argv[0] a file of the jail */
};

/* One line of JSON as the VMM's own last error (proto/vmm.ts); status 71. */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *what,
							  ...);

/* The VMM's end of its interface; what is inherited is closed before. */
#define TAP_FD 3

/* tap.c: an interface on the bridge, open as TAP_FD. */
void make_tap(const struct jail *jail);

/* root.c: private mounts, a root of nothing but the files named, pivot_root. */
void make_root(struct jail *jail);

/* drop.c: limits, ids, capabilities, no_new_privs, Landlock. */
void drop_rights(const struct jail *jail);

#endif

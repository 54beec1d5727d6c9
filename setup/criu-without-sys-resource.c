/*
 * Preloaded into CRIU where CAP_SYS_RESOURCE is missing.
 *
 * CRIU asks prlimit64(2) for the limits of every task that it dumps. For a task of another user the kernel
 * wants CAP_SYS_RESOURCE even for reading. The same limits stand in /proc/PID/limits, which needs no more
 * than the right to trace the task; so a refused read is answered from there. Nothing else changes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* The order is that of the RLIMIT_ numbers; the texts are fs/proc/base.c's. */
static const char *const limit_names[] = {
	"Max cpu time",       "Max file size",     "Max data size",     "Max stack size",
	"Max core file size", "Max resident set",  "Max processes",     "Max open files",
	"Max locked memory",  "Max address space", "Max file locks",    "Max pending signals",
	"Max msgqueue size",  "Max nice priority", "Max realtime priority", "Max realtime timeout",
};

/* Every name is padded to this width in /proc/PID/limits. */
enum { name_width = 26 };

static rlim64_t parse_limit(const char *text)
{
	return strcmp(text, "unlimited") == 0 ? RLIM64_INFINITY : strtoull(text, NULL, 10);
}

static int read_limit(long pid, long resource, struct rlimit64 *limit)
{
	char path[64], line[256], soft[32], hard[32];
	int found = 0;
	const char *name = limit_names[resource];

	snprintf(path, sizeof(path), "/proc/%ld/limits", pid);
	FILE *limits = fopen(path, "re");
	if (!limits)
		return 0;
	while (!found && fgets(line, sizeof(line), limits)) {
		if (strncmp(line, name, strlen(name)) != 0 || strlen(line) <= name_width)
			continue;
		if (sscanf(line + name_width, "%31s %31s", soft, hard) != 2)
			break;
		limit->rlim_cur = parse_limit(soft);
		limit->rlim_max = parse_limit(hard);
		found = 1;
	}
	fclose(limits);
	return found;
}

/* CRIU has no libc wrapper for prlimit64 and calls syscall(3). */
long syscall(long number, ...)
{
	static long (*next)(long, ...);
	long arguments[6];
	va_list list;

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		arguments[i] = va_arg(list, long);
	va_end(list);

	if (!next)
		next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	long result = next(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);

	const long pid = arguments[0], resource = arguments[1];
	const int only_reads = arguments[2] == 0 && arguments[3] != 0;
	const int known = resource >= 0 && resource < (long)(sizeof(limit_names) / sizeof(limit_names[0]));
	if (number == SYS_prlimit64 && result == -1 && errno == EPERM && pid > 0 && only_reads && known) {
		if (read_limit(pid, resource, (struct rlimit64 *)arguments[3]))
			return 0;
		errno = EPERM;
	}
	return result;
}

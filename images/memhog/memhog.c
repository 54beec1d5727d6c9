/*
 * Prints `<microseconds> Counter: <n>` every second and holds more memory each time, up to a limit. From the environment:
 *   MEMORY_LIMIT      MiB that each process holds in the end
 *   MEMORY_INCREMENT  MiB that each process takes every second until then
 *   PROCESS           how many processes do so
 *   PATTERN           text that the memory is filled with; random bytes when it is empty, which no compression shrinks
 *   SHOULD_STOP       "true": ends when the limit is reached
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const size_t mebibyte = 1024 * 1024;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static long setting(const char *name, long otherwise) {
  const char *text = getenv(name);
  if (text == NULL || *text == '\0') return otherwise;
  char *end;
  long value = strtol(text, &end, 10);
  if (*end != '\0' || value < 0) {
    fprintf(stderr, "%s must be a number, not '%s'\n", name, text);
    exit(1);
  }
  return value;
}

static void hold_mebibyte(const char *pattern) {
  char *memory = malloc(mebibyte);
  if (memory == NULL) fail("malloc");
  size_t length = pattern == NULL ? 0 : strlen(pattern);
  for (size_t at = 0; at < mebibyte;) {
    if (length > 0) {
      memory[at] = pattern[at % length];
      at++;
      continue;
    }
    ssize_t filled = getrandom(memory + at, mebibyte - at, 0);
    if (filled > 0) at += (size_t)filled;
    else if (errno != EINTR) fail("getrandom");
  }
}

static void stop(int signal) {
  (void)signal;
  _exit(0);
}

int main(void) {
  long limit = setting("MEMORY_LIMIT", 64);
  long increment = setting("MEMORY_INCREMENT", 8);
  long processes = setting("PROCESS", 1);
  const char *pattern = getenv("PATTERN");
  const char *should_stop = getenv("SHOULD_STOP");
  int stops = should_stop != NULL && (strcasecmp(should_stop, "true") == 0 || strcmp(should_stop, "1") == 0);

  /* The first process of a container does not die of a signal that it has no handler for. */
  signal(SIGTERM, stop);
  signal(SIGINT, stop);
  for (long other = 1; other < processes; other++) {
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) break;
  }

  setvbuf(stdout, NULL, _IOLBF, 0);
  long held = 0;
  for (long counter = 0;; counter++) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    printf("%lld Counter: %ld\n", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000, counter);
    for (long taken = 0; taken < increment && held < limit; taken++, held++) hold_mebibyte(pattern);
    if (stops && held >= limit) break;
    sleep(1);
  }
  while (wait(NULL) > 0) continue;
  return 0;
}

// limits [lock-first|lock-later|fds-first|fds-later|fds-one|plain]: messages and semaphores where memory or descriptors are short.
//
// lock-*: mlockall(MCL_FUTURE) before the first call or after it; fds-*: every descriptor is taken at that moment, or all
// but one.
// The process must not grow by more than GROWTH_KIB, neither in resident nor in locked memory: no mapping fills up.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <unistd.h>

enum { ROUNDS = 200, GROWTH_KIB = 2048, TEXT = 4000 };

static int status_file;

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static long status_kib(const char *name)
{
	char text[8192];
	ssize_t len = pread(status_file, text, sizeof text - 1, 0);
	must(len > 0, "/proc/self/status");
	text[len] = 0;
	const char *line = strstr(text, name);
	must(line != NULL, name);
	return strtol(line + strlen(name), NULL, 10);
}

static void traffic(int rounds)
{
	static struct { long type; char text[TEXT]; } sent = { 7, "some text" }, got;
	struct sembuf take[2] = { { 0, -1, SEM_UNDO }, { 1, 0, 0 } };
	struct sembuf give = { 0, 1, SEM_UNDO };
	int queue = msgget(IPC_PRIVATE, 0600);
	must(queue >= 0, "msgget");
	int set = semget(IPC_PRIVATE, 2, 0600);
	must(set >= 0, "semget");
	must(semctl(set, 0, SETVAL, 1) == 0, "SETVAL");
	for (int i = 0; i < rounds; i++) {
		must(msgsnd(queue, &sent, TEXT, 0) == 0, "msgsnd");
		must(msgrcv(queue, &got, TEXT, -9, 0) == TEXT, "msgrcv");
		must(memcmp(&sent, &got, sizeof sent) == 0, "contents");
		must(semop(set, take, 2) == 0, "semop");
		must(semop(set, &give, 1) == 0, "semop");
	}
	must(semctl(set, 0, GETVAL) == 1, "GETVAL");
	must(msgctl(queue, IPC_RMID, NULL) == 0 && semctl(set, 0, IPC_RMID) == 0, "IPC_RMID");
}

static void take_descriptors(void)
{
	while (open("/dev/null", O_RDONLY) >= 0)
		;
	must(errno == EMFILE, "open");
}

static void lock_memory(void)
{
	must(mlockall(MCL_FUTURE) == 0, "mlockall");
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "plain";
	status_file = open("/proc/self/status", O_RDONLY);
	must(status_file >= 0, "/proc/self/status");
	long resident = status_kib("VmRSS:"), locked = status_kib("VmLck:");

	if (!strcmp(mode, "lock-later") || !strcmp(mode, "fds-later"))
		traffic(1);
	if (!strncmp(mode, "lock-", 5))
		lock_memory();
	if (!strncmp(mode, "fds-", 4))
		take_descriptors();
	if (!strcmp(mode, "fds-one"))
		close(0);
	traffic(ROUNDS);

	resident = status_kib("VmRSS:") - resident;
	locked = status_kib("VmLck:") - locked;
	printf("%s: resident +%ld KiB, locked +%ld KiB\n", mode, resident, locked);
	return resident < GROWTH_KIB && locked < GROWTH_KIB ? 0 : 1;
}

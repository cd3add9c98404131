/* A program that uses the library's calls by their own names, beside the kernel's. */
#include <errno.h>
#include <ipcspace.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void check(int good, const char *what)
{
	if (!good) {
		printf("%s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static void *sleep_in_call(void *queue)
{
	char message[64];

	return ipcspace_msgrcv(*(int *)queue, message, 8, 0, 0) < 0 ? NULL : queue;
}

int main(void)
{
	pthread_t thread;
	void *end;

	check(ipcspace_open("no-such-namespace") == -1 && errno == ENOENT, "open");
	check(strstr(ipcspace_reason(), "no-such-namespace") != NULL, "reason");
	check(ipcspace_current() == -1 && errno == ENOENT, "current");
	check(ipcspace_private() == 0, "private");
	check(ipcspace_kernel() == -1 && errno == EBUSY, "a second choice");

	int queue = ipcspace_msgget(0x7b0a56, IPC_CREAT | 0600);

	check(queue >= 0, "msgget");
	check(msgget(0x7b0a56, 0) == -1 && errno == ENOENT, "the kernel has none");

	check(pthread_create(&thread, NULL, sleep_in_call, &queue) == 0, "thread");
	usleep(20000);
	check(pthread_cancel(thread) == 0 && pthread_join(thread, &end) == 0, "cancel");
	check(end == PTHREAD_CANCELED, "a sleep in msgrcv is cancelled");
	check(ipcspace_msgctl(queue, IPC_RMID, NULL) == 0, "the queue can be used still");
	return 0;
}

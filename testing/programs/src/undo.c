// undo COUNT: a parent that kills its child with SIGKILL and waits for it finds SEM_UNDO applied.
//
// Every round takes a fresh child. In even rounds the child holds the semaphore and sleeps, in odd rounds it takes and
// gives back without end, so that the kill strikes anywhere in a call. The value is read once, right after waitpid.

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FREE = 5 };

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static void add(int set, short amount)
{
	struct sembuf op = { .sem_num = 0, .sem_op = amount, .sem_flg = SEM_UNDO };
	must(semop(set, &op, 1) == 0, "semop");
}

static void child(int set, int told, int busy)
{
	add(set, -1);
	must(write(told, "", 1) == 1, "write");
	if (!busy)
		for (;;)
			pause();
	for (;;) {
		add(set, -1);
		add(set, 1);
	}
}

int main(int argc, char **argv)
{
	long count = argc > 1 ? atol(argv[1]) : 1000;
	long applied = 0;
	int set = semget(IPC_PRIVATE, 1, 0600);
	must(set >= 0, "semget");
	must(semctl(set, 0, SETVAL, FREE) == 0, "SETVAL");

	for (long round = 0; round < count; round++) {
		int ends[2];
		char byte;
		must(pipe(ends) == 0, "pipe");
		pid_t pid = fork();
		must(pid >= 0, "fork");
		if (pid == 0)
			child(set, ends[1], round & 1);
		close(ends[1]);
		must(read(ends[0], &byte, 1) == 1, "read");
		must(kill(pid, SIGKILL) == 0, "kill");
		must(waitpid(pid, NULL, 0) == pid, "waitpid");
		int value = semctl(set, 0, GETVAL);
		close(ends[0]);
		if (value == FREE)
			applied++;
		else
			fprintf(stderr, "round %ld: value %d, not %d\n", round, value, FREE);
	}
	must(semctl(set, 0, IPC_RMID) == 0, "IPC_RMID");
	printf("undo applied in %ld of %ld\n", applied, count);
	return count > 0 && applied == count ? 0 : 1;
}

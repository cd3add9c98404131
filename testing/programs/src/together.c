// together COUNT: so many processes, some at a time, in each of which all threads make their first IPC call at the
// same moment: far more threads than there are processors, so that they interrupt each other anywhere.
//
// Each thread sleeps for messages that another one sends it: whoever is given another's message, or none, has been
// mistaken for that one.

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/wait.h>
#include <unistd.h>

enum { AT_ONCE = 6, THREADS = 48, ROUNDS = 4 };

struct letter {
	long type;
	long text;
};

static int queue;
static pthread_barrier_t start;

// Passes a letter on to the next thread in the ring, ROUNDS times.
static void *body(void *argument)
{
	long me = (long)(intptr_t)argument + 1, next = me % THREADS + 1;
	pthread_barrier_wait(&start);
	for (long round = 0; round < ROUNDS; round++) {
		struct letter sent = { next, round }, got = { 0, 0 };
		if (msgsnd(queue, &sent, sizeof sent.text, 0) != 0)
			return "msgsnd";
		if (msgrcv(queue, &got, sizeof got.text, me, 0) != sizeof got.text)
			return "msgrcv";
		if (got.type != me || got.text != round)
			return "another's message";
	}
	return NULL;
}

static int child(void)
{
	pthread_t threads[THREADS];
	int failed = 0;
	if (pthread_barrier_init(&start, NULL, THREADS) != 0)
		return 2;
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, body, (void *)(intptr_t)i) != 0)
			return 2;
	for (int i = 0; i < THREADS; i++) {
		void *failure = NULL;
		pthread_join(threads[i], &failure);
		if (failure) {
			perror(failure);
			failed = 1;
		}
	}
	return failed;
}

// Children one after the other; says what went wrong.
static int run(long count)
{
	for (long i = 0; i < count; i++) {
		queue = msgget(IPC_PRIVATE, 0600);
		if (queue < 0) {
			perror("msgget");
			return 2;
		}
		pid_t pid = fork();
		if (pid == 0) {
			alarm(60);
			_exit(child());
		}
		int status = -1;
		waitpid(pid, &status, 0);
		msgctl(queue, IPC_RMID, NULL);
		if (status != 0) {
			fprintf(stderr, "together: a process ended with status %#x\n", status);
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	long count = argc > 1 ? atol(argv[1]) : 600;
	int failed = 0;
	for (int i = 0; i < AT_ONCE; i++)
		if (fork() == 0)
			_exit(run(count / AT_ONCE));
	for (int i = 0; i < AT_ONCE; i++) {
		int status = -1;
		wait(&status);
		failed |= status != 0;
	}
	printf("%ld processes, %d threads each\n", count, THREADS);
	return failed;
}

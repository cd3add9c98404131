// threads COUNT: so many short threads, each doing one msgsnd and msgrcv, or two semop with SEM_UNDO, and ending.
//
// Whatever an implementation keeps for a thread has to come back, or it runs out of it long before the end.

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

enum { AT_ONCE = 8 };

static int queue, set;

static const char *by_message(long number)
{
	struct { long type; long number; } sent = { number + 1, number }, got = { 0, 0 };
	if (msgsnd(queue, &sent, sizeof sent.number, 0) != 0)
		return "msgsnd";
	if (msgrcv(queue, &got, sizeof got.number, sent.type, 0) != sizeof got.number)
		return "msgrcv";
	return got.number == number ? NULL : "another's message";
}

static const char *by_semaphore(void)
{
	struct sembuf take = { .sem_num = 0, .sem_op = -1, .sem_flg = SEM_UNDO };
	struct sembuf give = { .sem_num = 0, .sem_op = 1, .sem_flg = SEM_UNDO };
	if (semop(set, &take, 1) != 0)
		return "semop -1";
	return semop(set, &give, 1) == 0 ? NULL : "semop +1";
}

static void *body(void *argument)
{
	long number = (long)(intptr_t)argument;
	const char *failure = number & 1 ? by_semaphore() : by_message(number);
	if (failure)
		fprintf(stderr, "thread %ld: %s: %m\n", number, failure);
	return (void *)failure;
}

int main(int argc, char **argv)
{
	long count = argc > 1 ? atol(argv[1]) : 1000000;
	long done = 0, failed = 0;
	queue = msgget(IPC_PRIVATE, 0600);
	set = semget(IPC_PRIVATE, 1, 0600);
	if (queue < 0 || set < 0 || semctl(set, 0, SETVAL, 1) != 0) {
		perror("msgget or semget");
		return 1;
	}

	while (done < count && failed == 0) {
		pthread_t threads[AT_ONCE];
		int started = 0;
		while (started < AT_ONCE && done + started < count) {
			void *number = (void *)(intptr_t)(done + started);
			int error = pthread_create(&threads[started], NULL, body, number);
			if (error) {
				fprintf(stderr, "pthread_create: error %d\n", error);
				failed++;
				break;
			}
			started++;
		}
		for (int i = 0; i < started; i++) {
			void *failure;
			pthread_join(threads[i], &failure);
			failed += failure != NULL;
		}
		done += started;
	}

	struct msqid_ds left;
	if (msgctl(queue, IPC_STAT, &left) != 0 || left.msg_qnum != 0 || semctl(set, 0, GETVAL) != 1) {
		fprintf(stderr, "the queue is not empty, or the semaphore not free\n");
		failed++;
	}
	if (msgctl(queue, IPC_RMID, NULL) != 0 || semctl(set, 0, IPC_RMID) != 0)
		failed++;
	printf("%ld threads, %ld failed\n", done, failed);
	return done == count && count > 0 && failed == 0 ? 0 : 1;
}

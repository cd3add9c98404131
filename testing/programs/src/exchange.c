// exchange OTHER: this program and OTHER, the same one built with another libc, share a queue, a set and a segment.
//
// They send each other messages and pass a turn back and forth by semaphores, with threads on both sides; the other is killed
// with a semaphore taken and the segment attached, and all of it is given back when its parent has waited for it.

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 500, THREADS = 4, SIZE = 100000 };
enum { TAKEN, MINE, YOURS, SEMAPHORES };

struct letter {
	long type;
	long number;
	char text[100];
};

static int queue, set, segment;
static unsigned char *memory;

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static void add(int number, int amount, int flags)
{
	struct sembuf operation = { (unsigned short)number, (short)amount, (short)flags };
	must(semop(set, &operation, 1) == 0, "semop");
}

static void attach(void)
{
	memory = shmat(segment, NULL, 0);
	must(memory != (void *)-1, "shmat");
}

// Each thread of the one side writes to its fellow of the other, which answers the number plus one.
static void *asks(void *argument)
{
	long me = (long)argument;
	for (long round = 0; round < ROUNDS; round++) {
		struct letter letter = { me, round, "" };
		memset(letter.text, (int)round, sizeof letter.text);
		must(msgsnd(queue, &letter, sizeof letter - sizeof letter.type, 0) == 0, "msgsnd");
		must(msgrcv(queue, &letter, sizeof letter - sizeof letter.type, me + THREADS, 0) >= 0, "msgrcv");
		must(letter.number == round + 1 && letter.text[99] == (char)round, "another letter");
	}
	return NULL;
}

static void *answers(void *argument)
{
	long me = (long)argument;
	for (long round = 0; round < ROUNDS; round++) {
		struct letter letter;
		must(msgrcv(queue, &letter, sizeof letter - sizeof letter.type, me, 0) >= 0, "msgrcv");
		letter.type += THREADS;
		letter.number++;
		must(msgsnd(queue, &letter, sizeof letter - sizeof letter.type, 0) == 0, "msgsnd");
	}
	return NULL;
}

static void by_threads(void *(*body)(void *))
{
	pthread_t threads[THREADS];
	for (long i = 0; i < THREADS; i++)
		must(pthread_create(&threads[i], NULL, body, (void *)(i + 1)) == 0, "pthread_create");
	for (int i = 0; i < THREADS; i++)
		must(pthread_join(threads[i], NULL) == 0, "pthread_join");
}

static void other(void)
{
	attach();
	by_threads(answers);
	for (int round = 0; round < ROUNDS; round++) {
		add(YOURS, -1, 0);
		must(memory[round] == (unsigned char)round, "what the other has written");
		memory[SIZE - 1 - round] = (unsigned char)~round;
		add(MINE, 1, 0);
	}
	// A child of fork is there as well, and attached.
	pid_t child = fork();
	must(child >= 0, "fork");
	add(TAKEN, 1, SEM_UNDO);
	if (child == 0)
		_exit(memory[0] == 0 ? 0 : 1);
	int status;
	must(waitpid(child, &status, 0) == child && status == 0, "the child");
	add(MINE, 1, 0);
	pause();
}

int main(int argc, char **argv)
{
	if (argc == 5) {
		queue = atoi(argv[2]), set = atoi(argv[3]), segment = atoi(argv[4]);
		other();
		return 1;
	}
	must(argc == 2, "exchange OTHER");
	queue = msgget(IPC_PRIVATE, 0600);
	set = semget(IPC_PRIVATE, SEMAPHORES, 0600);
	segment = shmget(IPC_PRIVATE, SIZE, 0600);
	must(queue >= 0 && set >= 0 && segment >= 0, "msgget, semget or shmget");
	attach();
	pid_t pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0) {
		char ids[3][12];
		snprintf(ids[0], sizeof ids[0], "%d", queue);
		snprintf(ids[1], sizeof ids[1], "%d", set);
		snprintf(ids[2], sizeof ids[2], "%d", segment);
		execl(argv[1], argv[1], "other", ids[0], ids[1], ids[2], (char *)NULL);
		_exit(127);
	}
	by_threads(asks);
	for (int round = 0; round < ROUNDS; round++) {
		memory[round] = (unsigned char)round;
		add(YOURS, 1, 0);
		add(MINE, -1, 0);
		must(memory[SIZE - 1 - round] == (unsigned char)~round, "what the other has written");
	}
	add(MINE, -1, 0);
	struct shmid_ds stat;
	must(semctl(set, TAKEN, GETVAL) == 1, "the other's semaphore");
	must(shmctl(segment, IPC_STAT, &stat) == 0 && stat.shm_nattch == 2, "two have it attached");
	int status;
	must(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "waitpid");
	must(semctl(set, TAKEN, GETVAL) == 0, "SEM_UNDO");
	must(shmctl(segment, IPC_STAT, &stat) == 0 && stat.shm_nattch == 1, "one has it attached");
	must(shmctl(segment, IPC_RMID, NULL) == 0 && shmdt(memory) == 0, "shmdt");
	must(shmctl(segment, IPC_STAT, &stat) == -1 && errno == EINVAL, "the segment is gone");
	must(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0, "IPC_RMID");
	printf("%s: %d letters, %d turns\n", argv[1], THREADS * ROUNDS, ROUNDS);
	return 0;
}

/*
 * A program that was written for the kernel's calls: workers that take jobs from a queue, count what they have done in shared memory, and are
 * kept apart by semaphores. What it prints is the same wherever its objects are.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <mqueue.h>
#include <fcntl.h>
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

enum { WORKERS = 4, JOBS = 200, LAST = 1000 };

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
};

struct job {
	long type;
	char text[56];
};

struct board {
	int done;
	int sum;
	int by[WORKERS];
};

static int queue, set, segment;

static void check(int good, const char *what)
{
	if (!good) {
		printf("%s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static void lock(int by)
{
	struct sembuf operation = { .sem_num = 0, .sem_op = (short)by, .sem_flg = SEM_UNDO };

	check(semop(set, &operation, 1) == 0, "semop");
}

static void work(int self)
{
	struct board *board = shmat(segment, NULL, 0);
	struct job job;

	check(board != (void *)-1, "shmat");
	for (;;) {
		ssize_t size = msgrcv(queue, &job, sizeof(job.text), -LAST, 0);

		check(size >= 0, "msgrcv");
		if (job.type == LAST)
			break;
		lock(-1);
		board->done++;
		board->sum += atoi(job.text);
		board->by[self]++;
		lock(1);
	}
	check(shmdt(board) == 0, "shmdt");
	exit(0);
}

static void send_job(long type, int number)
{
	struct job job = { .type = type };

	snprintf(job.text, sizeof(job.text), "%d", number);
	check(msgsnd(queue, &job, strlen(job.text) + 1, 0) == 0, "msgsnd");
}

static void jobs(void)
{
	struct msqid_ds queue_ds;
	struct semid_ds set_ds;
	struct shmid_ds segment_ds;
	unsigned short values[2] = { 1, 7 };
	pid_t workers[WORKERS];
	int all = 0;

	queue = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
	set = semget(IPC_PRIVATE, 2, IPC_CREAT | 0600);
	segment = shmget(IPC_PRIVATE, sizeof(struct board), IPC_CREAT | 0640);
	check(queue >= 0 && set >= 0 && segment >= 0, "get");
	check(semctl(set, 0, SETALL, (union semun){ .array = values }) == 0, "SETALL");

	for (int i = 0; i < WORKERS; i++) {
		workers[i] = fork();
		check(workers[i] >= 0, "fork");
		if (workers[i] == 0)
			work(i);
	}
	for (int i = 1; i <= JOBS; i++)
		send_job(1 + i % 9, i);
	for (int i = 0; i < WORKERS; i++)
		send_job(LAST, 0);
	for (int i = 0; i < WORKERS; i++) {
		int status;

		check(waitpid(workers[i], &status, 0) == workers[i], "waitpid");
		check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "worker");
	}

	struct board *board = shmat(segment, NULL, SHM_RDONLY);

	check(board != (void *)-1, "shmat");
	for (int i = 0; i < WORKERS; i++)
		all += board->by[i];
	printf("%d jobs done, %d by all workers, sum %d\n", board->done, all, board->sum);

	check(msgctl(queue, IPC_STAT, &queue_ds) == 0, "IPC_STAT");
	printf("queue: %lu messages, %lu bytes of %lu, mode %o\n", (unsigned long)queue_ds.msg_qnum,
	       (unsigned long)queue_ds.__msg_cbytes, (unsigned long)queue_ds.msg_qbytes,
	       queue_ds.msg_perm.mode);
	check(semctl(set, 0, IPC_STAT, (union semun){ .buf = &set_ds }) == 0, "IPC_STAT");
	printf("set: %lu semaphores, values %d and %d\n", (unsigned long)set_ds.sem_nsems,
	       semctl(set, 0, GETVAL), semctl(set, 1, GETVAL));
	check(shmctl(segment, IPC_STAT, &segment_ds) == 0, "IPC_STAT");
	printf("segment: %zu bytes, attached %lu times, mode %o\n", segment_ds.shm_segsz,
	       (unsigned long)segment_ds.shm_nattch, segment_ds.shm_perm.mode);
	check(shmdt(board) == 0, "shmdt");
}

static void undone(void)
{
	pid_t holder = fork();

	if (holder == 0) {
		lock(-1);
		pause();
	}
	while (semctl(set, 0, GETVAL) != 0)
		usleep(1000);
	check(kill(holder, SIGKILL) == 0 && waitpid(holder, NULL, 0) == holder, "kill");
	lock(-1);
	lock(1);
	printf("who was killed has given back: %d\n", semctl(set, 0, GETVAL));
}

static void refused(void)
{
	struct sembuf take = { .sem_num = 1, .sem_op = -9, .sem_flg = 0 };
	struct timespec soon = { .tv_sec = 0, .tv_nsec = 5000000 };
	struct job job = { .type = 0 };
	char large[9000] = { 1 };

#define TELL(call) printf("%s: %s\n", #call, (call) < 0 ? strerror(errno) : "done")
	TELL(msgsnd(queue, &job, 1, 0));
	TELL(msgsnd(queue, large, sizeof(large) - sizeof(long), 0));
	TELL(msgrcv(queue, &job, sizeof(job.text), 5, IPC_NOWAIT));
	TELL(semtimedop(set, &take, 1, &soon));
	take.sem_num = 2;
	TELL(semop(set, &take, 1));
	TELL(semctl(set, 0, SETVAL, 40000));
	TELL(shmget(IPC_PRIVATE, 0, 0600));
	TELL(shmdt(&large));
	TELL(msgget(0x7b0a55, 0600));
	TELL(msgctl(queue, IPC_RMID, NULL));
	TELL(semctl(set, 0, IPC_RMID));
	TELL(shmctl(segment, IPC_RMID, NULL));
	TELL(msgrcv(queue, &job, sizeof(job.text), 0, 0));
}

static void posix_queue(void)
{
	struct mq_attr attributes = { .mq_maxmsg = 4, .mq_msgsize = 32 };
	char name[64], text[32];
	unsigned int priority;

	snprintf(name, sizeof(name), "/ipcspace-c-%d", (int)getpid());
	mqd_t descriptor = mq_open(name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0600, &attributes);

	check(descriptor >= 0, "mq_open");
	TELL(mq_send(descriptor, "low", 4, 1));
	TELL(mq_send(descriptor, "high", 5, 9));
	check(mq_receive(descriptor, text, sizeof(text), &priority) == 5, "mq_receive");
	printf("%s, of priority %u\n", text, priority);
	check(mq_getattr(descriptor, &attributes) == 0, "mq_getattr");
	printf("%ld of %ld messages\n", attributes.mq_curmsgs, attributes.mq_maxmsg);
	TELL(mq_receive(descriptor, text, 3, NULL));
	TELL(mq_unlink(name));
	TELL(mq_close(descriptor));
	TELL(mq_open("no-slash", O_RDWR));
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	jobs();
	undone();
	refused();
	posix_queue();
	return 0;
}

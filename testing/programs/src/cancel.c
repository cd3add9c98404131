// cancel: threads that are cancelled in message and semaphore calls, or polling a POSIX queue, or that end in their sleep in another way.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 2000 };
struct text { long type; long number; };

static int queue, set, failures;
static volatile int cleaned, returned, ready;

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

#define expect(condition) \
	((condition) ? (void)0 : (void)(failures++, fprintf(stderr, "line %d: not so: %s (%m)\n", __LINE__, #condition)))

static void pause_ms(long milliseconds)
{
	nanosleep(&(struct timespec){ 0, milliseconds * 1000000 }, NULL);
}

static long queued(void)
{
	struct msqid_ds stat;
	must(msgctl(queue, IPC_STAT, &stat) == 0, "IPC_STAT");
	return (long)stat.msg_qnum;
}

static int put(long type, int flags)
{
	struct text text = { type, 1 };
	return msgsnd(queue, &text, sizeof text.number, flags);
}

static int get(long type, int flags)
{
	struct text text;
	return msgrcv(queue, &text, sizeof text.number, type, flags) < 0 ? -1 : 0;
}

enum call { RECEIVE, SEND_ONLY, TAKE, RAW_RECEIVE, RECEIVE_DISABLED, CANCELLED_BEFORE, TAKE_ANYWHERE };

// What a cleanup handler may do: any call.
static void cleanup(void *argument)
{
	if ((enum call)(intptr_t)argument == SEND_ONLY)
		return;
	expect(put(50, IPC_NOWAIT) == 0 && get(50, 0) == 0);
	cleaned++;
}

static void *sleeper(void *argument)
{
	struct sembuf take = { 0, -1, 0 };
	struct text text;
	pthread_cleanup_push(cleanup, argument);
	switch ((enum call)(intptr_t)argument) {
	case RECEIVE_DISABLED:
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		// falls through
	case RECEIVE:
		get(1, 0);
		break;
	case SEND_ONLY:
		put(2, 0);
		break;
	case TAKE_ANYWHERE:
		pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
		// falls through
	case TAKE:
		semop(set, &take, 1);
		break;
	case RAW_RECEIVE:
		syscall(SYS_msgrcv, queue, &text, sizeof text.number, 1, 0);
		break;
	case CANCELLED_BEFORE:
		pthread_cancel(pthread_self());
		get(1, IPC_NOWAIT);
	}
	returned++;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	pthread_cleanup_pop(0);
	return NULL;
}

static pthread_t start(enum call call)
{
	pthread_t thread;
	cleaned = returned = 0;
	must(pthread_create(&thread, NULL, sleeper, (void *)(intptr_t)call) == 0, "pthread_create");
	if (call != CANCELLED_BEFORE) {
		pause_ms(50);
		pthread_cancel(thread);
	}
	return thread;
}

static void ends(pthread_t thread)
{
	void *result;
	pthread_join(thread, &result);
	expect(result == PTHREAD_CANCELED && cleaned == 1 && returned == 0);
}

static void goes_on(pthread_t thread)
{
	void *result;
	pthread_join(thread, &result);
	expect(result == NULL && cleaned == 0 && returned == 1);
}

static void single_calls(void)
{
	struct sembuf give = { 0, 1, 0 };
	ends(start(RECEIVE));
	expect(put(1, 0) == 0 && queued() == 1 && get(1, 0) == 0); // Nobody else takes it.
	ends(start(CANCELLED_BEFORE));
	// A sender for whom there is no room: its message is not sent, and the cleanup handler's does not fit either.
	while (put(9, IPC_NOWAIT) == 0)
		;
	long full = queued();
	pthread_t thread = start(SEND_ONLY);
	void *result;
	pthread_join(thread, &result);
	expect(result == PTHREAD_CANCELED && returned == 0 && queued() == full);
	while (get(9, IPC_NOWAIT) == 0)
		;
	expect(queued() == 0);

	thread = start(TAKE);
	pause_ms(50);
	expect(returned == 0 && semctl(set, 0, GETNCNT) == 1 && semop(set, &give, 1) == 0);
	goes_on(thread);
	thread = start(RAW_RECEIVE);
	pause_ms(50);
	expect(returned == 0 && put(1, 0) == 0);
	goes_on(thread);
	thread = start(RECEIVE_DISABLED);
	pause_ms(50);
	expect(returned == 0 && put(1, 0) == 0);
	goes_on(thread);
	ends(start(TAKE_ANYWHERE));
	expect(semctl(set, 0, GETNCNT) == 0);
}

// ---- a thread that ends in its sleep, by a handler that libc knows nothing of

static void leaves(int signal)
{
	(void)signal;
	syscall(SYS_exit, 0);
}

void restore(void);
__asm__(".globl restore\nrestore: mov $15, %rax; syscall");

static void install_unseen(int number, void (*handler)(int))
{
	struct { void (*handler)(int); unsigned long flags; void (*restorer)(void); unsigned long mask; } action
		= { handler, 0x04000000, restore, 0 };
	long result;
	register long size __asm__("r10") = 8;
	__asm__ volatile("syscall" : "=a"(result)
		: "a"(SYS_rt_sigaction), "D"((long)number), "S"(&action), "d"(0L), "r"(size) : "rcx", "r11", "memory");
	must(result == 0, "rt_sigaction");
}

static void *another(void *argument)
{
	(void)argument;
	expect(semctl(set, 0, GETNCNT) == 0);
	return NULL;
}

static void ended_asleep(void)
{
	struct sembuf give = { 0, 1, 0 };
	pthread_t thread;
	install_unseen(SIGUSR1, leaves);
	must(pthread_create(&thread, NULL, sleeper, (void *)(intptr_t)TAKE) == 0, "pthread_create");
	pause_ms(50);
	expect(semctl(set, 0, GETNCNT) == 1);
	pthread_kill(thread, SIGUSR1);
	pthread_join(thread, NULL);
	must(pthread_create(&thread, NULL, another, NULL) == 0, "pthread_create");
	pthread_join(thread, NULL);
	expect(semop(set, &give, 1) == 0 && semctl(set, 0, GETVAL) == 1 && semctl(set, 0, SETVAL, 0) == 0);
}

// ---- many, at any moment

static void count(void *argument)
{
	(void)argument;
	cleaned++;
}

static void *cancelled_anywhere(void *argument)
{
	pthread_cleanup_push(count, NULL);
	ready = 1;
	for (;;) {
		put((long)(intptr_t)argument, 0);
		get((long)(intptr_t)argument, 0);
		get(1000000, 0);
	}
	pthread_cleanup_pop(0);
	return NULL;
}

static void many(void)
{
	cleaned = 0;
	for (long round = 1; round <= ROUNDS; round++) {
		pthread_t thread;
		ready = 0;
		must(pthread_create(&thread, NULL, cancelled_anywhere, (void *)(intptr_t)round) == 0, "pthread_create");
		while (!ready)
			sched_yield();
		for (volatile long i = 0; i < round * 20; i++)
			;
		void *result;
		pthread_cancel(thread);
		pthread_join(thread, &result);
		expect(result == PTHREAD_CANCELED);
		if (round % 100 == 0)
			while (get(-ROUNDS, IPC_NOWAIT) == 0)
				;
	}
	expect(cleaned == ROUNDS);
	while (get(-ROUNDS, IPC_NOWAIT) == 0)
		;
	expect(put(1000000, 0) == 0 && queued() == 1 && get(1000000, 0) == 0);
}

// ---- POSIX queues, and who polls them

enum { MQ_RECEIVE, POLL, SELECT, EPOLL, WAYS };

static mqd_t posix;

static void *waits(void *argument)
{
	struct pollfd polled = { .fd = posix, .events = POLLIN };
	struct epoll_event event = { .events = EPOLLIN };
	fd_set set;
	char text[8];
	pthread_cleanup_push(count, NULL);
	ready = 1;
	switch ((intptr_t)argument) {
	case MQ_RECEIVE:
		mq_receive(posix, text, sizeof text, NULL);
		break;
	case POLL:
		poll(&polled, 1, -1);
		break;
	case SELECT:
		FD_ZERO(&set);
		FD_SET(posix, &set);
		select(posix + 1, &set, NULL, NULL, NULL);
		break;
	default:;
		int epoll = epoll_create1(EPOLL_CLOEXEC);
		expect(epoll_ctl(epoll, EPOLL_CTL_ADD, posix, &event) == 0);
		epoll_wait(epoll, &event, 1, -1);
	}
	returned++;
	pthread_cleanup_pop(0);
	return NULL;
}

static void posix_queues(void)
{
	struct mq_attr attr = { .mq_maxmsg = 1, .mq_msgsize = 8 };
	char text[8];
	posix = mq_open("/cancel", O_CREAT | O_RDWR, 0600, &attr);
	must(posix != -1 && mq_unlink("/cancel") == 0, "mq_open or mq_unlink");
	for (intptr_t round = 0; round < 40 * WAYS; round++) {
		pthread_t thread;
		void *result;
		cleaned = returned = ready = 0;
		must(pthread_create(&thread, NULL, waits, (void *)(round % WAYS)) == 0, "pthread_create");
		while (!ready)
			sched_yield();
		// Asleep, or anywhere on the way there.
		if (round < WAYS)
			pause_ms(50);
		else
			for (volatile long i = 0; i < round * 100; i++)
				;
		pthread_cancel(thread);
		pthread_join(thread, &result);
		expect(result == PTHREAD_CANCELED && cleaned == 1 && returned == 0);
		struct pollfd polled = { .fd = posix, .events = POLLIN | POLLOUT };
		expect(poll(&polled, 1, 0) == 1 && polled.revents == POLLOUT);
		expect(mq_send(posix, "x", 1, 0) == 0 && poll(&polled, 1, 0) == 1 && polled.revents == POLLIN);
		expect(mq_receive(posix, text, sizeof text, NULL) == 1);
	}
	must(mq_close(posix) == 0, "mq_close");
}

int main(int argc, char **argv)
{
	queue = msgget(IPC_PRIVATE, 0600);
	set = semget(IPC_PRIVATE, 1, 0600);
	must(queue >= 0 && set >= 0, "msgget or semget");
	// In musl, cancelling interrupts a semop, and nothing else may end a thread.
	int libc_is_musl = argc > 1 && !strcmp(argv[1], "musl");
	if (!libc_is_musl)
		single_calls();
	many();
	posix_queues();
	if (!libc_is_musl)
		ended_asleep();
	must(msgctl(queue, IPC_RMID, NULL) == 0 && semctl(set, 0, IPC_RMID) == 0, "IPC_RMID");
	printf("cancel: %d failures\n", failures);
	return failures != 0;
}

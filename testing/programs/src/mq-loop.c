// mq-loop: one process serves 100 POSIX queues by epoll, four others send: by levels, then by edges.
//
// Every message arrives, once, and each sender's to a queue in their order. No event comes to nothing, and while nobody
// sends, the loop sleeps: half of the messages are sent, then there is a pause, over which CPU time is measured.
// Two of the senders sleep in mq_send where a queue is full, the other two ask poll when there is room.

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { QUEUES = 100, SENDERS = 4, EACH = 100, ALL = QUEUES * SENDERS * EACH, ROOM = 4, PAUSE_MS = 300 };

struct message {
	int sender, number;
};

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static void expect(int ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "%s\n", what);
		exit(1);
	}
}

static char *name_of(int queue)
{
	static char name[40];
	snprintf(name, sizeof name, "/mq-loop-%d-%d", (int)getpgrp(), queue);
	return name;
}

static double seconds(clockid_t clock)
{
	struct timespec now;
	must(clock_gettime(clock, &now) == 0, "clock_gettime");
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void send_all(int sender, int go)
{
	must(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "prctl");
	int nonblock = sender % 2 ? O_NONBLOCK : 0;
	mqd_t queues[QUEUES];
	for (int i = 0; i < QUEUES; i++)
		must((queues[i] = mq_open(name_of(i), O_WRONLY | nonblock)) != -1, "mq_open of a sender");
	char byte;
	for (int number = 0; number < EACH; number++) {
		if (number == EACH / 2)
			must(read(go, &byte, 1) == 1, "read");
		for (int i = 0; i < QUEUES; i++) {
			mqd_t queue = queues[(i * 37 + sender) % QUEUES];
			struct message message = { sender, number };
			while (mq_send(queue, (char *)&message, sizeof message, 0) != 0) {
				must(nonblock && errno == EAGAIN, "mq_send");
				struct pollfd room = { .fd = queue, .events = POLLOUT };
				must(poll(&room, 1, -1) == 1, "poll");
			}
		}
	}
	exit(0);
}

// Somebody lets the senders go on, when the loop has slept for a while.
static void let_go_later(int go)
{
	pid_t pid = fork();
	must(pid >= 0, "fork");
	if (pid)
		return;
	usleep(PAUSE_MS * 1000);
	must(write(go, "....", SENDERS) == SENDERS, "write");
	exit(0);
}

static void serve(const mqd_t *queues, unsigned edges, int go)
{
	static int next[QUEUES][SENDERS];
	memset(next, 0, sizeof next);
	int epoll = epoll_create1(EPOLL_CLOEXEC), received = 0, paused = 0;
	must(epoll >= 0, "epoll_create1");
	for (int i = 0; i < QUEUES; i++) {
		struct epoll_event event = { .events = EPOLLIN | edges, .data.u32 = i };
		must(epoll_ctl(epoll, EPOLL_CTL_ADD, queues[i], &event) == 0, "epoll_ctl");
	}
	while (received < ALL) {
		double cpu = 0, time = 0;
		int pause = received == ALL / 2 && !paused;
		if (pause) {
			let_go_later(go);
			cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), time = seconds(CLOCK_MONOTONIC);
		}
		struct epoll_event events[16];
		int count = epoll_wait(epoll, events, 16, 30000);
		must(count >= 0, "epoll_wait");
		expect(count > 0, "a message did not wake the loop");
		if (pause) {
			paused = 1;
			expect(seconds(CLOCK_MONOTONIC) - time > PAUSE_MS / 2e3, "the loop did not sleep");
			expect(seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu < PAUSE_MS / 10e3, "the loop was busy while nobody sent");
		}
		for (int i = 0; i < count; i++) {
			int queue = events[i].data.u32, got = 0;
			struct message message;
			do {
				ssize_t size = mq_receive(queues[queue], (char *)&message, sizeof message, NULL);
				if (size < 0) {
					must(errno == EAGAIN, "mq_receive");
					break;
				}
				expect(size == sizeof message && (unsigned)message.sender < SENDERS, "another message than was sent");
				expect(next[queue][message.sender]++ == message.number, "a message is missing, or came twice");
				received++, got++;
			} while (edges);
			expect(got > 0, "an event came to nothing");
		}
	}
	expect(paused, "there was no pause");
	must(close(epoll) == 0, "close");
}

static void run(unsigned edges)
{
	mqd_t queues[QUEUES];
	struct mq_attr attr = { .mq_maxmsg = ROOM, .mq_msgsize = sizeof(struct message) };
	for (int i = 0; i < QUEUES; i++)
		must((queues[i] = mq_open(name_of(i), O_CREAT | O_EXCL | O_RDONLY | O_NONBLOCK, 0600, &attr)) != -1, "mq_open");
	int go[2];
	must(pipe(go) == 0, "pipe");
	for (int i = 0; i < SENDERS; i++) {
		pid_t pid = fork();
		must(pid >= 0, "fork");
		if (pid == 0)
			send_all(i, go[0]);
	}
	serve(queues, edges, go[1]);
	for (int i = 0; i < SENDERS + 1; i++) {
		int status;
		must(wait(&status) > 0, "wait");
		expect(status == 0, "a sender failed");
	}
	for (int i = 0; i < QUEUES; i++)
		must(mq_close(queues[i]) == 0 && mq_unlink(name_of(i)) == 0, "mq_close, mq_unlink");
	must(close(go[0]) == 0 && close(go[1]) == 0, "close");
}

int main(void)
{
	must(setpgid(0, 0) == 0 || getpgrp() == getpid(), "setpgid");
	run(0);
	run(EPOLLET);
	return 0;
}

/* Notifications by a thread: written for the kernel, and tried there first. */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static sem_t told;
static mqd_t queue;
static pthread_t starter;
static char got[64];
static int value, is_other, blocked;

static void check(int good, const char *what)
{
	if (!good) {
		printf("%s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static void be_told(union sigval sent)
{
	sigset_t mask;

	value = sent.sival_int;
	is_other = !pthread_equal(pthread_self(), starter);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	blocked = sigismember(&mask, SIGUSR1);
	check(mq_receive(queue, got, sizeof got, NULL) > 0, "receive in the thread");
	sem_post(&told);
}

int main(void)
{
	struct mq_attr attributes = { .mq_maxmsg = 4, .mq_msgsize = sizeof got };
	struct sigevent event = { .sigev_notify = SIGEV_THREAD, .sigev_notify_function = be_told };
	char name[64];
	pthread_attr_t small;

	starter = pthread_self();
	sem_init(&told, 0, 0);
	snprintf(name, sizeof name, "/notify-%d", getpid());
	queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes);
	check(queue != (mqd_t)-1 && mq_unlink(name) == 0, "open");

	check(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 128 * 1024) == 0, "attributes");
	for (int round = 0; round < 3; round++) {
		event.sigev_value.sival_int = 40 + round;
		event.sigev_notify_attributes = round == 2 ? &small : NULL;
		check(mq_notify(queue, &event) == 0, "notify");
		check(mq_notify(queue, &event) == -1 && errno == EBUSY, "only one");
		snprintf(name, sizeof name, "message %d", round);
		check(mq_send(queue, name, strlen(name) + 1, 0) == 0, "send");
		while (sem_wait(&told) == -1)
			;
		printf("%s: %d, another thread: %d, SIGUSR1 blocked: %d\n", got, value, is_other, blocked);
	}
	/* Told once for each registration. */
	check(mq_send(queue, "left", 5, 0) == 0, "send");
	usleep(20000);
	check(sem_trywait(&told) == -1 && errno == EAGAIN, "not told again");
	check(mq_receive(queue, got, sizeof got, NULL) == 5, "receive");

	/* Taken back, and then another's. */
	check(mq_notify(queue, &event) == 0 && mq_notify(queue, NULL) == 0, "take back");
	check(mq_notify(queue, &event) == 0 && mq_notify(queue, NULL) == 0, "and again");
	check(mq_close(queue) == 0, "close");
	check(mq_notify(queue, &event) == -1 && errno == EBADF, "closed");
	puts("done");
	return 0;
}

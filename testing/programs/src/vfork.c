// vfork: children of vfork that use messages and semaphores before they end or execute something.

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FREE = 5, KILLS = 500 };
struct text { long type; long number; };

static int queue, set;
static volatile int failures, over, killed;
static volatile pid_t victim;
extern char **environ;

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		_exit(1);
	}
}

#define expect(condition) \
	((condition) ? (void)0 \
		: (void)(failures = failures + 1, fprintf(stderr, "line %d: not so: %s (%m)\n", __LINE__, #condition)))

static int add(short num, short amount)
{
	struct sembuf op = { (unsigned short)num, amount, SEM_UNDO };
	return semop(set, &op, 1);
}

static int put(long type, long number)
{
	struct text text = { type, number };
	return msgsnd(queue, &text, sizeof text.number, 0);
}

static long get(long type)
{
	struct text text;
	return msgrcv(queue, &text, sizeof text.number, type, 0) < 0 ? -1 : text.number;
}

static struct msqid_ds stat_queue(void)
{
	struct msqid_ds stat;
	must(msgctl(queue, IPC_STAT, &stat) == 0, "IPC_STAT");
	return stat;
}

static int ended(pid_t pid)
{
	int status;
	must(waitpid(pid, &status, 0) == pid, "waitpid");
	return status;
}

static __attribute__((noinline)) pid_t child_that_sends_and_takes(void)
{
	pid_t pid = vfork();
	must(pid >= 0, "vfork");
	if (pid == 0) {
		int bad = put(1, getpid()) != 0 || add(0, -1) != 0 || add(1, 3) != 0;
		bad |= semctl(set, 0, GETPID) != getpid() || semctl(set, 0, GETVAL) != FREE - 1;
		errno = 0;
		bad |= msgsnd(queue, NULL, 8, 0) != -1 || errno != EFAULT;
		_exit(bad);
	}
	return pid;
}

static void is_a_process_of_its_own(void)
{
	expect(add(0, -1) == 0 && add(0, 1) == 0);
	pid_t pid = child_that_sends_and_takes();
	expect(stat_queue().msg_lspid == pid);
	expect(ended(pid) == 0);
	expect(get(1) == pid && stat_queue().msg_lrpid == getpid());
	expect(semctl(set, 0, GETVAL) == FREE && semctl(set, 1, GETVAL) == 0);
	expect(put(2, 7) == 0 && stat_queue().msg_lspid == getpid() && get(2) == 7);
	expect(add(0, -1) == 0 && semctl(set, 0, GETPID) == getpid() && add(0, 1) == 0);
}

// What it is given is in its memory, to the byte, and nowhere where it may not write.
static __attribute__((noinline)) pid_t child_that_takes(void *read_only)
{
	static struct { long type; char text[4100]; } some;
	pid_t pid = vfork();
	must(pid >= 0, "vfork");
	if (pid == 0) {
		int bad = 0;
		for (size_t size = 0; size < sizeof some.text; size += 1 + size / 2) {
			some.type = 10, memset(some.text, 'a', sizeof some.text);
			bad |= msgsnd(queue, &some, size, 0) != 0;
			some.type = 0, memset(some.text, 'b', sizeof some.text);
			bad |= msgrcv(queue, &some, sizeof some.text, 0, 0) != (ssize_t)size || some.type != 10;
			for (size_t at = 0; at < sizeof some.text; at++)
				bad |= some.text[at] != (at < size ? 'a' : 'b');
		}
		errno = 0;
		bad |= put(11, 1) != 0 || msgrcv(queue, read_only, 8, 11, 0) != -1 || errno != EFAULT;
		_exit(bad);
	}
	return pid;
}

static void has_its_parents_memory(void)
{
	void *read_only = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(read_only != MAP_FAILED, "mmap");
	expect(ended(child_that_takes(read_only)) == 0 && stat_queue().msg_qnum == 0);
	expect(munmap(read_only, 4096) == 0);
}

// What it has taken it keeps over exec, and gives back at its end.
static __attribute__((noinline)) pid_t child_that_executes(char **arguments)
{
	pid_t pid = vfork();
	must(pid >= 0, "vfork");
	if (pid == 0) {
		if (add(0, -2) == 0)
			execv("/proc/self/exe", arguments);
		_exit(9);
	}
	return pid;
}

static char **own_arguments(const char *mode)
{
	static char queue_text[12], set_text[12];
	static char *arguments[5];
	snprintf(queue_text, sizeof queue_text, "%d", queue);
	snprintf(set_text, sizeof set_text, "%d", set);
	arguments[0] = "vfork", arguments[1] = strdup(mode), arguments[2] = queue_text, arguments[3] = set_text;
	return arguments;
}

static void keeps_undo_over_exec(void)
{
	pid_t pid = child_that_executes(own_arguments("executed"));
	expect(get(3) == pid);
	expect(ended(pid) == 0);
	expect(semctl(set, 0, GETVAL) == FREE);
}

static void executed(void)
{
	expect(semctl(set, 0, GETVAL) == FREE - 2 && semctl(set, 0, GETPID) == getpid());
	expect(put(3, getpid()) == 0 && add(0, 1) == 0 && add(0, -1) == 0);
}

// A parent that has made no call yet; it makes its own later.
static void first_of_all(void)
{
	pid_t pid = child_that_sends_and_takes();
	expect(ended(pid) == 0);
	expect(semctl(set, 0, GETVAL) == FREE && add(0, -1) == 0 && put(4, get(1)) == 0);
	expect(stat_queue().msg_lspid == getpid());
}

// ---- handlers

static volatile int ran;
static void count(int signal) { (void)signal; ran++; }
static void other(int signal) { (void)signal; _exit(3); }

static __attribute__((noinline)) pid_t child_with_handlers(void)
{
	pid_t pid = vfork();
	must(pid >= 0, "vfork");
	if (pid == 0) {
		int bad = signal(SIGUSR1, SIG_DFL) != count;
		bad |= signal(SIGUSR2, other) != count || signal(SIGSEGV, other) != SIG_DFL || put(5, 5) != 0;
		if (!bad)
			kill(getpid(), SIGUSR2); // musl's raise would mean the parent.
		_exit(bad);
	}
	return pid;
}

static void has_handlers_of_its_own(void)
{
	must(signal(SIGUSR1, count) != SIG_ERR && signal(SIGUSR2, count) != SIG_ERR, "signal");
	expect(ended(child_with_handlers()) == 3 << 8 && get(5) == 5);
	raise(SIGUSR1);
	raise(SIGUSR2);
	expect(ran == 2 && signal(SIGUSR1, SIG_DFL) == count && signal(SIGUSR2, SIG_DFL) == count);
	expect(signal(SIGSEGV, SIG_DFL) == SIG_DFL);
	errno = 0;
	expect(msgsnd(queue, NULL, 8, 0) == -1 && errno == EFAULT);
}

// ---- killed at any moment, beside threads of the parent that go on

static void *beside(void *argument)
{
	long rounds = 0;
	(void)argument;
	for (; !over; rounds++) {
		expect(put(6, rounds) == 0 && get(6) == rounds);
		expect(add(0, -1) == 0 && add(0, 1) == 0);
	}
	expect(rounds > 0);
	return NULL;
}

static void *killer(void *argument)
{
	(void)argument;
	while (!over) {
		nanosleep(&(struct timespec){ 0, 1000000 + killed % 100 * 7000 }, NULL);
		if (victim)
			kill(victim, SIGKILL);
	}
	return NULL;
}

// The child's, and its parent's when it has ended: what that makes of it is nothing that the child sent, or that it may still be given.
static volatile struct text reused;

static __attribute__((noinline)) void child_to_kill(void)
{
	pid_t pid = vfork();
	must(pid >= 0, "vfork");
	if (pid == 0) {
		victim = getpid();
		for (;;) {
			reused.type = 7, reused.number = 1;
			if (msgsnd(queue, (void *)&reused, sizeof reused.number, 0) != 0 || add(0, -1) != 0)
				_exit(1);
			if (msgrcv(queue, (void *)&reused, sizeof reused.number, 7, 0) < 0 || add(0, 1) != 0)
				_exit(1);
		}
	}
	reused.type = 9, reused.number = 2;
	victim = 0;
	expect(ended(pid) == SIGKILL);
	expect(reused.type == 9 && reused.number == 2);
}

static void is_killed_anywhere(void)
{
	pthread_t threads[2];
	must(pthread_create(&threads[0], NULL, beside, NULL) == 0, "pthread_create");
	must(pthread_create(&threads[1], NULL, killer, NULL) == 0, "pthread_create");
	for (killed = 0; killed < KILLS; killed++) {
		child_to_kill();
		expect(put(8, killed) == 0 && get(8) == killed && stat_queue().msg_lrpid != 0);
	}
	over = 1;
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	expect(semctl(set, 0, GETVAL) == FREE);
	struct text text;
	while (msgrcv(queue, &text, sizeof text.number, 7, IPC_NOWAIT) >= 0)
		;
	expect(stat_queue().msg_qnum == 0);
}

// ---- what libc makes of vfork and the like

static void libc_uses_it(void)
{
	pid_t pid;
	char *arguments[] = { "true", NULL };
	must(posix_spawnp(&pid, "true", NULL, NULL, arguments, environ) == 0, "posix_spawnp");
	expect(ended(pid) == 0);
	expect(system("exit 4") == 4 << 8);
	FILE *pipe = popen("echo some; exit 5", "r");
	char line[16] = "";
	must(pipe != NULL, "popen");
	expect(fgets(line, sizeof line, pipe) != NULL && !strcmp(line, "some\n") && pclose(pipe) == 5 << 8);
	pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0) {
		// A vfork child of a process that has not attached since its own fork.
		pid_t inner = child_that_sends_and_takes();
		expect(ended(inner) == 0 && get(1) == inner && add(0, -1) == 0);
		_exit(failures);
	}
	expect(ended(pid) == 0 && semctl(set, 0, GETVAL) == FREE);
}

int main(int argc, char **argv)
{
	if (argc > 3) {
		queue = atoi(argv[2]), set = atoi(argv[3]);
		if (!strcmp(argv[1], "executed"))
			executed();
		else
			first_of_all();
		return failures != 0;
	}
	queue = msgget(IPC_PRIVATE, 0600);
	set = semget(IPC_PRIVATE, 2, 0600);
	must(queue >= 0 && set >= 0 && semctl(set, 0, SETVAL, FREE) == 0, "msgget or semget");
	is_a_process_of_its_own();
	has_its_parents_memory();
	keeps_undo_over_exec();
	has_handlers_of_its_own();
	libc_uses_it();
	pid_t pid;
	must(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, own_arguments("first"), environ) == 0, "posix_spawn");
	expect(ended(pid) == 0 && get(4) > 0 && semctl(set, 0, GETVAL) == FREE);
	is_killed_anywhere();
	must(msgctl(queue, IPC_RMID, NULL) == 0 && semctl(set, 0, IPC_RMID) == 0, "IPC_RMID");
	printf("vfork: %d failures\n", failures);
	return failures != 0;
}

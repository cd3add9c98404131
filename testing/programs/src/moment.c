// moment [early]: a signal that comes at any instruction of a call that is to sleep is either before the call or ends it.
//
// The parent lets its child make a semop or msgrcv instruction by instruction, up to one, sends it a signal there, and lets it run.
// If the handler runs and the call sleeps on, then the signal was before the call: so from the first instruction
// where it ends the call, it ends it at all later ones. In the kernel that is none, as the call is one instruction;
// with `early` there must be some.

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct { volatile int handled, ended, result, error; } *shared;
enum { FOREVER = 1000000 };
static int queue, set, with_queue, early;
static pid_t child;

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		if (child > 0)
			kill(child, SIGKILL);
		exit(1);
	}
}

static void count(int signal)
{
	(void)signal;
	shared->handled++;
}

static void calls(void)
{
	struct sembuf take = { 0, -1, 0 };
	struct { long type; char text[8]; } text;
	struct sigaction action = { .sa_handler = count, .sa_flags = SA_RESTART };
	must(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0, "PTRACE_TRACEME");
	must(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
	must(semctl(set, 0, GETVAL) == 0, "GETVAL");
	for (;;) {
		shared->handled = shared->ended = 0;
		raise(SIGSTOP);
		if (with_queue)
			shared->result = (int)msgrcv(queue, &text, sizeof text.text, 1, 0);
		else
			shared->result = semop(set, &take, 1);
		shared->error = errno;
		shared->ended = 1;
		raise(SIGSTOP);
	}
}

// Waits for the child to stop by that signal, and lets it have those that are ours. False after `milliseconds`.
static int stops(int signal, long milliseconds)
{
	int status;
	for (long waited = 0; waited < milliseconds * 10;) {
		pid_t changed = waitpid(child, &status, milliseconds < FOREVER ? WNOHANG : 0);
		must(changed >= 0, "waitpid");
		if (changed == 0) {
			nanosleep(&(struct timespec){ 0, 100000 }, NULL);
			waited++;
			continue;
		}
		must(WIFSTOPPED(status), "the child ended");
		if (WSTOPSIG(status) == signal)
			return 1;
		must(WSTOPSIG(status) == SIGUSR1, "another signal");
		must(ptrace(PTRACE_CONT, child, 0, SIGUSR1) == 0, "PTRACE_CONT");
	}
	return 0;
}

// Is the next instruction the system call that sleeps?
static int about_to_sleep(void)
{
	struct user_regs_struct registers;
	must(ptrace(PTRACE_GETREGS, child, 0, &registers) == 0, "PTRACE_GETREGS");
	long code = ptrace(PTRACE_PEEKTEXT, child, registers.rip, 0);
	return (code & 0xffff) == 0x050f
		&& (registers.rax == 65 || registers.rax == 70 || registers.rax == 202 || registers.rax == 220);
}

// Takes `steps` steps, fewer if the sleep comes first.
static long step(long steps)
{
	for (long done = 0; done < steps; done++) {
		if (about_to_sleep())
			return done;
		must(ptrace(PTRACE_SINGLESTEP, child, 0, 0) == 0, "PTRACE_SINGLESTEP");
		stops(SIGTRAP, FOREVER);
	}
	return steps;
}

// Whether a signal after that many steps ends the call.
static int ends_at(long steps)
{
	must(ptrace(PTRACE_CONT, child, 0, 0) == 0, "PTRACE_CONT");
	stops(SIGSTOP, FOREVER);
	step(steps);
	must(ptrace(PTRACE_CONT, child, 0, SIGUSR1) == 0, "PTRACE_CONT");
	int more = 0, ends = stops(SIGSTOP, 30);
	// It sleeps now: another one must end it. Only where others compute may it not have come that far.
	for (int stopped = ends; !stopped; stopped = stops(SIGSTOP, 1000)) {
		must(++more < 10 && kill(child, SIGUSR1) == 0, "a signal that ends the sleep");
	}
	must(shared->ended && shared->result == -1 && shared->error == EINTR, "another result");
	must(shared->handled == 1 + more, "another count of signals");
	return ends;
}

static int try_all(const char *name)
{
	int failures = 0;
	long first = -1, tried = 0;
	child = fork();
	must(child >= 0, "fork");
	if (child == 0)
		calls();
	stops(SIGSTOP, FOREVER);
	long whole = step(100000);
	must(whole < 100000, "no sleep");
	must(ptrace(PTRACE_CONT, child, 0, 0) == 0, "PTRACE_CONT");
	must(!stops(SIGSTOP, 50), "it sleeps");
	must(kill(child, SIGUSR1) == 0, "kill");
	stops(SIGSTOP, FOREVER);
	must(shared->ended && shared->handled == 1, "not at the end");
	for (long at = 0; at <= whole; at += whole - at > 60 ? 17 : 1) {
		int ends = ends_at(at);
		tried++;
		if (ends && first < 0)
			first = at;
		if (!ends && first >= 0) {
			fprintf(stderr, "%s: a signal before instruction %ld of %ld is not seen\n", name, at, whole);
			failures++;
		}
	}
	printf("%s: %ld of %ld instructions tried, a signal ends the call from %ld on\n", name, tried, whole, first);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return failures + (early && first < 0);
}

int main(int argc, char **argv)
{
	early = argc > 1 && !strcmp(argv[1], "early");
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(shared != MAP_FAILED, "mmap");
	queue = msgget(IPC_PRIVATE, 0600);
	set = semget(IPC_PRIVATE, 1, 0600);
	must(queue >= 0 && set >= 0, "msgget or semget");
	int failures = try_all("semop");
	with_queue = 1;
	failures += try_all("msgrcv");
	must(msgctl(queue, IPC_RMID, NULL) == 0 && semctl(set, 0, IPC_RMID) == 0, "IPC_RMID");
	return failures != 0;
}

// signals MODE [SECONDS]: signal handlers around message and semaphore calls.
//
// report: what sigaction and its like tell, and what flags and masks do, is the program's own.
// asleep: a handler that interrupts a sleeping call calls IPC itself, or leaves by siglongjmp; nothing is lost.
// fault: bad pointers are EFAULT, whatever the program does with SIGSEGV and SIGBUS; other faults are the program's.
// storm: timers whose handlers send, receive, take, give, and jump away, in threads that do the same.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SA_RESTORER_BIT = 0x04000000 }; // libc's own

struct text { long type; long number; };

static int queue, set;
static volatile int failures;

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

#define expect(condition) \
	((condition) ? (void)0 : (void)(failures = failures + 1, fprintf(stderr, "line %d: not so: %s (%m)\n", __LINE__, #condition)))

static void make(void)
{
	queue = msgget(IPC_PRIVATE, 0600);
	set = semget(IPC_PRIVATE, 4, 0600);
	must(queue >= 0 && set >= 0, "msgget or semget");
}

static void remove_all(void)
{
	must(msgctl(queue, IPC_RMID, NULL) == 0 && semctl(set, 0, IPC_RMID) == 0, "IPC_RMID");
}

static int put(long type, long number)
{
	struct text text = { type, number };
	return msgsnd(queue, &text, sizeof text.number, 0);
}

static long get(long type, int flags)
{
	struct text text;
	return msgrcv(queue, &text, sizeof text.number, type, flags) < 0 ? -1 : text.number;
}

static long queued(void)
{
	struct msqid_ds stat;
	must(msgctl(queue, IPC_STAT, &stat) == 0, "IPC_STAT");
	return (long)stat.msg_qnum;
}

static int is_blocked(int signal)
{
	sigset_t now;
	pthread_sigmask(SIG_BLOCK, NULL, &now);
	return sigismember(&now, signal);
}

static void install(int signal, void (*handler)(int), int flags)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = flags };
	must(sigaction(signal, &action, NULL) == 0, "sigaction");
}

// ---- report

static volatile int ran, was_blocked, other_blocked, was_on_stack;
static siginfo_t seen;
static char *stack_low, *stack_high;

static void note(int signal)
{
	char here;
	ran++;
	was_blocked = is_blocked(signal);
	other_blocked = is_blocked(SIGUSR2);
	was_on_stack = &here >= stack_low && &here < stack_high;
	put(5, ran);
}

static void note_info(int signal, siginfo_t *info, void *context)
{
	(void)context;
	seen = *info;
	note(signal);
}

static void nothing(int signal) { (void)signal; }

static void report(void)
{
	struct sigaction old, new = { .sa_sigaction = note_info, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaddset(&new.sa_mask, SIGUSR2);
	make(); // Ours attaches here.
	must(sigaction(SIGUSR1, &new, NULL) == 0, "sigaction");
	must(sigaction(SIGUSR1, NULL, &old) == 0, "sigaction");
	expect(old.sa_sigaction == note_info);
	expect((old.sa_flags & ~SA_RESTORER_BIT) == (SA_SIGINFO | SA_RESTART));
	expect(sigismember(&old.sa_mask, SIGUSR2) == 1 && sigismember(&old.sa_mask, SIGUSR1) == 0);
	must(sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = 42 }) == 0, "sigqueue");
	expect(ran == 1 && was_blocked && other_blocked && !was_on_stack);
	expect(seen.si_code == SI_QUEUE && seen.si_value.sival_int == 42 && seen.si_pid == getpid());
	expect(!is_blocked(SIGUSR1) && !is_blocked(SIGUSR2));

	// Once, not blocking itself, on a stack of its own.
	static char stack[65536];
	stack_low = stack, stack_high = stack + sizeof stack;
	must(sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof stack }, NULL) == 0, "sigaltstack");
	install(SIGUSR1, note, SA_RESETHAND | SA_NODEFER | SA_ONSTACK);
	must(sigaction(SIGUSR1, NULL, &old) == 0, "sigaction");
	expect(old.sa_handler == note);
	expect((old.sa_flags & ~SA_RESTORER_BIT) == (int)(SA_RESETHAND | SA_NODEFER | SA_ONSTACK));
	raise(SIGUSR1);
	expect(ran == 2 && !was_blocked && !other_blocked && was_on_stack);
	must(sigaction(SIGUSR1, NULL, &old) == 0, "sigaction");
	expect(old.sa_handler == SIG_DFL);

	expect(signal(SIGUSR1, note) == SIG_DFL);
	expect(signal(SIGUSR1, SIG_IGN) == note);
	raise(SIGUSR1);
	expect(ran == 2);
	expect(signal(SIGUSR1, note) == SIG_IGN);
	must(sigaction(SIGUSR1, NULL, &old) == 0, "sigaction");
	expect(old.sa_handler == note && (old.sa_flags & ~SA_RESTORER_BIT) == SA_RESTART);
	expect(sigismember(&old.sa_mask, SIGUSR1) == 1);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
	must(siginterrupt(SIGUSR1, 1) == 0, "siginterrupt");
	must(sigaction(SIGUSR1, NULL, &old) == 0, "sigaction");
	expect(old.sa_handler == note && (old.sa_flags & ~SA_RESTORER_BIT) == 0);
	expect(signal(SIGUSR1, note) == note);
	must(sigaction(SIGUSR1, NULL, &old) == 0, "sigaction");
	expect((old.sa_flags & ~SA_RESTORER_BIT) == 0);
	must(siginterrupt(SIGUSR1, 0) == 0, "siginterrupt");
	expect(sigset(SIGUSR1, SIG_HOLD) == note && is_blocked(SIGUSR1));
	expect(sigset(SIGUSR1, nothing) == SIG_HOLD && !is_blocked(SIGUSR1));
#pragma GCC diagnostic pop
	expect(sysv_signal(SIGUSR1, note) == nothing);
	raise(SIGUSR1);
	expect(ran == 3 && signal(SIGUSR1, SIG_DFL) == SIG_DFL);
	errno = 0;
	expect(signal(SIGKILL, note) == SIG_ERR && errno == EINVAL);
	errno = 0;
	expect(signal(65, note) == SIG_ERR && errno == EINVAL);
	errno = 0;
	expect(sigaction(32, NULL, &old) == -1 && errno == EINVAL);
	for (int signal = 1; signal < 32; signal++) {
		must(sigaction(signal, NULL, &old) == 0, "sigaction");
		expect(old.sa_handler == SIG_DFL && (signal == SIGUSR1 || old.sa_flags == 0));
	}

	// By system call; and what a child has.
	install(SIGUSR1, note, 0);
	struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } raw;
	must(syscall(SYS_rt_sigaction, SIGUSR1, NULL, &raw, 8) == 0, "rt_sigaction");
	expect(raw.handler == (void *)note && raw.mask == 0);
	ran = 0;
	pid_t pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0) {
		must(sigaction(SIGUSR1, NULL, &old) == 0, "sigaction");
		raise(SIGUSR1);
		_exit(!(old.sa_handler == note && ran == 1));
	}
	int status;
	must(waitpid(pid, &status, 0) == pid, "waitpid");
	expect(status == 0 && ran == 0);
	pid = fork();
	if (pid == 0) {
		execl("/proc/self/exe", "signals", "defaults", NULL);
		_exit(9);
	}
	must(waitpid(pid, &status, 0) == pid, "waitpid");
	expect(status == 0);
	remove_all();
}

// After exec: what was caught is the default.
static void defaults(void)
{
	struct sigaction old;
	for (int signal = 1; signal < 32; signal++) {
		must(sigaction(signal, NULL, &old) == 0, "sigaction");
		expect(old.sa_handler == SIG_DFL);
	}
}

// ---- asleep

static sigjmp_buf away;
static pthread_t sleeper;
static volatile int what;
enum { CALLS = 1, JUMPS, SENDS_WHAT_IS_AWAITED };

static void in_sleep(int signal)
{
	(void)signal;
	ran++;
	switch (what) {
	case CALLS:
		expect(put(7, 70) == 0 && get(7, 0) == 70);
		break;
	case JUMPS:
		siglongjmp(away, 1);
	case SENDS_WHAT_IS_AWAITED:
		expect(put(3, 30) == 0);
	}
}

static void *disturber(void *argument)
{
	struct timespec pause = { 0, 50000000 };
	(void)argument;
	nanosleep(&pause, NULL);
	pthread_kill(sleeper, SIGUSR1);
	return NULL;
}

static void disturb(pthread_t *thread, int by)
{
	ran = 0;
	what = by;
	must(pthread_create(thread, NULL, disturber, NULL) == 0, "pthread_create");
}

static void asleep(void)
{
	pthread_t thread;
	struct sembuf take = { 0, -1, 0 }, give = { 0, 1, 0 };
	sleeper = pthread_self();
	install(SIGUSR1, in_sleep, SA_RESTART); // Before ours attaches.
	make();

	disturb(&thread, CALLS);
	expect(get(3, 0) == -1 && errno == EINTR && ran == 1);
	pthread_join(thread, NULL);
	disturb(&thread, CALLS);
	expect(semop(set, &take, 1) == -1 && errno == EINTR && ran == 1);
	pthread_join(thread, NULL);
	// The receiver has left the queue when its handler runs.
	disturb(&thread, SENDS_WHAT_IS_AWAITED);
	expect(get(3, 0) == -1 && errno == EINTR && ran == 1);
	pthread_join(thread, NULL);
	expect(queued() == 1 && get(3, 0) == 30);

	disturb(&thread, JUMPS);
	if (sigsetjmp(away, 1) == 0)
		expect((get(3, 0), 0));
	pthread_join(thread, NULL);
	expect(ran == 1 && !is_blocked(SIGUSR1));
	expect(put(3, 31) == 0 && queued() == 1); // Nobody takes it any more.
	expect(get(3, 0) == 31);
	disturb(&thread, JUMPS);
	if (sigsetjmp(away, 1) == 0)
		expect((semop(set, &take, 1), 0));
	pthread_join(thread, NULL);
	expect(semctl(set, 0, GETNCNT) == 0);
	expect(semop(set, &give, 1) == 0 && semctl(set, 0, GETVAL) == 1 && semop(set, &take, 1) == 0);
	// A sender that jumps away has not sent.
	volatile long sent = 0;
	while (msgsnd(queue, &(struct text){ 9, sent }, sizeof(long), IPC_NOWAIT) == 0)
		sent++;
	disturb(&thread, JUMPS);
	if (sigsetjmp(away, 1) == 0)
		expect((put(9, -5), 0));
	pthread_join(thread, NULL);
	for (long i = 0; i < sent; i++)
		expect(get(9, IPC_NOWAIT) == i);
	expect(queued() == 0);
	remove_all();
}

// ---- fault

static sigjmp_buf out;
static volatile int faults;
static volatile void *fault_address;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	faults++;
	fault_address = info->si_addr;
	siglongjmp(out, 1);
}

static void bad_pointers(char *bad)
{
	errno = 0;
	expect(msgsnd(queue, bad, 8, 0) == -1 && errno == EFAULT);
	errno = 0;
	expect(semop(set, (struct sembuf *)bad, 1) == -1 && errno == EFAULT);
	expect(put(1, 2) == 0);
	errno = 0;
	expect(msgctl(queue, IPC_STAT, (struct msqid_ds *)bad) == -1 && errno == EFAULT);
	errno = 0;
	expect(msgrcv(queue, bad, 8, 0, 0) == -1 && errno == EFAULT);
	expect(queued() == 0);
}

static char *bad_places[3];

static void all_bad_pointers(void)
{
	for (int i = 0; i < 3; i++)
		bad_pointers(bad_places[i]);
}

static void in_handler(int signal)
{
	(void)signal;
	ran++;
	all_bad_pointers();
}

static void poke(char *bad)
{
	if (sigsetjmp(out, 1) == 0) {
		*(volatile char *)bad = 1;
		expect(0);
	}
}

// How a child ends that does this.
static int end_of(void (*deed)(void))
{
	int status;
	pid_t pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0) {
		deed();
		_exit(0);
	}
	must(waitpid(pid, &status, 0) == pid, "waitpid");
	return status;
}

static void writes_to_nothing(void) { must(msgget(IPC_PRIVATE, 0600) >= 0, "msgget"); *(volatile char *)bad_places[0] = 1; }
static void kills_itself(void) { must(msgget(IPC_PRIVATE, 0600) >= 0, "msgget"); raise(SIGSEGV); }
static void ignores(void) { must(msgget(IPC_PRIVATE, 0600) >= 0, "msgget"); signal(SIGSEGV, SIG_IGN); raise(SIGSEGV); bad_pointers(bad_places[0]); _exit(failures); }
static void ignores_and_writes(void) { must(msgget(IPC_PRIVATE, 0600) >= 0, "msgget"); signal(SIGSEGV, SIG_IGN); *(volatile char *)bad_places[0] = 1; }

static void fault(void)
{
	sigset_t all, before;
	char name[] = "/tmp/signals.XXXXXX";
	int file = mkstemp(name);
	must(file >= 0 && unlink(name) == 0, "mkstemp");
	bad_places[0] = NULL;
	bad_places[1] = (char *)0x4141414141414141; // Not even an address.
	bad_places[2] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0); // SIGBUS
	must(bad_places[2] != MAP_FAILED, "mmap");
	make();
	all_bad_pointers();

	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO }, old;
	must(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0, "sigaction");
	all_bad_pointers();
	poke(NULL);
	expect(faults == 1 && fault_address == NULL);
	poke(bad_places[2]);
	expect(faults == 2 && fault_address == bad_places[2]);
	all_bad_pointers();
	expect(faults == 2);
	must(sigaction(SIGSEGV, NULL, &old) == 0, "sigaction");
	expect(old.sa_sigaction == on_fault && !is_blocked(SIGSEGV));
	// Sent by somebody, not raised by the code.
	if (sigsetjmp(out, 1) == 0)
		raise(SIGSEGV);
	expect(faults == 3);

	// Blocked: by the program, in a handler's mask, in a new thread.
	sigfillset(&all);
	must(pthread_sigmask(SIG_BLOCK, &all, &before) == 0, "pthread_sigmask");
	all_bad_pointers();
	pthread_t thread;
	must(pthread_create(&thread, NULL, (void *(*)(void *))all_bad_pointers, NULL) == 0, "pthread_create");
	pthread_join(thread, NULL);
	must(sigprocmask(SIG_SETMASK, &before, NULL) == 0, "sigprocmask");
	sigset_t *volatile wild = (sigset_t *)8;

	expect(sigprocmask(SIG_BLOCK, NULL, wild) == -1 && errno == EFAULT);
	expect(pthread_sigmask(SIG_BLOCK, NULL, wild) == EFAULT);
	all_bad_pointers();
	struct sigaction masked = { .sa_handler = in_handler };
	sigfillset(&masked.sa_mask);
	must(sigaction(SIGUSR1, &masked, NULL) == 0, "sigaction");
	ran = 0;
	raise(SIGUSR1);
	expect(ran == 1);
	all_bad_pointers();
	expect(faults == 3);

	signal(SIGSEGV, SIG_DFL);
	all_bad_pointers();
	expect(signal(SIGSEGV, SIG_DFL) == SIG_DFL);
	expect((end_of(writes_to_nothing) & 0x7f) == SIGSEGV);
	expect((end_of(kills_itself) & 0x7f) == SIGSEGV);
	expect(end_of(ignores) == 0);
	expect((end_of(ignores_and_writes) & 0x7f) == SIGSEGV);
	remove_all();
}

// ---- storm

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

enum { WORKERS = 3, TYPES = 4 };
static atomic_long sent_sum, received_sum, sent_count, received_count, handled, jumped, bad_errors;
static atomic_int stop;
static _Thread_local volatile sig_atomic_t may_jump;
static _Thread_local sigjmp_buf home;
static _Thread_local unsigned long random_state;

static void count_sent(long number)
{
	sent_sum += number;
	sent_count++;
}

static void count_received(long number)
{
	received_sum += number;
	received_count++;
}

static unsigned pick(unsigned below)
{
	random_state = random_state * 6364136223846793005UL + 1442695040888963407UL;
	return (unsigned)(random_state >> 33) % below;
}

static void failed(const char *what_failed)
{
	if (errno == EINTR || errno == EAGAIN || errno == ENOMSG)
		return;
	bad_errors++;
	perror(what_failed);
}

// A number is counted with all signals blocked, so that no jump comes between the call and the count.
static void exchange(int flags)
{
	sigset_t all, before;
	sigfillset(&all);
	struct text text = { 1 + pick(TYPES), pick(1000000) };
	long number = text.number;
	pthread_sigmask(SIG_BLOCK, &all, &before);
	if (pick(2) == 0) {
		if (msgsnd(queue, &text, sizeof text.number, IPC_NOWAIT) == 0)
			count_sent(number);
		else
			failed("msgsnd");
	} else if (msgrcv(queue, &text, sizeof text.number, -(long)(1 + pick(TYPES)), flags | IPC_NOWAIT) >= 0)
		count_received(text.number);
	else
		failed("msgrcv");
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void tick(int signal)
{
	(void)signal;
	int error = errno;
	// One that interrupts this one must not jump out of it.
	int jump = may_jump;
	may_jump = 0;
	struct sembuf take = { 1, -1, IPC_NOWAIT | SEM_UNDO }, give = { 1, 1, SEM_UNDO };
	handled++;
	exchange(IPC_NOWAIT);
	if (semop(set, &take, 1) == 0) {
		while (semop(set, &give, 1) != 0)
			failed("semop give in a handler");
	} else
		failed("semop in a handler");
	if (jump && pick(4) == 0) {
		jumped++;
		siglongjmp(home, 1);
	}
	may_jump = jump;
	errno = error;
}

static void unjumped(struct sembuf *op)
{
	while (semop(set, op, 1) != 0)
		failed("semop");
}

static void *worker(void *argument)
{
	random_state = (unsigned long)(uintptr_t)argument * 77777;
	struct sembuf take = { 0, -1, 0 }, give = { 0, 1, 0 }, never = { 2, -1, 0 };
	struct timespec short_time = { 0, 2000000 };
	struct text text;
	while (!stop) {
		// Without waiting, with signals at any moment: only exact results count.
		text = (struct text){ 1 + pick(TYPES), pick(1000000) };
		long number = text.number;
		if (msgsnd(queue, &text, sizeof text.number, pick(2) ? IPC_NOWAIT : 0) == 0)
			count_sent(number);
		else
			failed("msgsnd");
		if (msgrcv(queue, &text, sizeof text.number, pick(TYPES + 1), pick(2) ? IPC_NOWAIT : 0) >= 0)
			count_received(text.number);
		else
			failed("msgrcv");
		unjumped(&take);
		unjumped(&give);
		// Asleep, where a handler may jump away: nobody sends what is waited for here.
		if (sigsetjmp(home, 1) == 0) {
			may_jump = 1;
			if (pick(2))
				(void)(semtimedop(set, &never, 1, &short_time) == 0 ? (void)bad_errors++ : failed("semtimedop"));
			else
				(void)(msgrcv(queue, &text, sizeof text.number, 99, 0) >= 0 ? (void)bad_errors++ : failed("msgrcv 99"));
			may_jump = 0;
		}
	}
	return NULL;
}

static void storm(double seconds)
{
	pthread_t threads[WORKERS];
	timer_t timers[WORKERS];
	make();
	must(semctl(set, 0, SETVAL, 2) == 0 && semctl(set, 1, SETVAL, 2) == 0, "SETVAL");
	install(SIGALRM, tick, SA_RESTART);
	install(SIGUSR1, tick, 0);
	install(SIGRTMIN, tick, SA_NODEFER | SA_RESTART);
	for (int i = 0; i < WORKERS; i++)
		must(pthread_create(&threads[i], NULL, worker, (void *)(uintptr_t)(i + 1)) == 0, "pthread_create");
	struct itimerval often = { { 0, 500 }, { 0, 500 } };
	must(setitimer(ITIMER_REAL, &often, NULL) == 0, "setitimer");
	for (int i = 0; i < WORKERS; i++) {
		struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = i ? SIGRTMIN : SIGUSR1 };
		struct itimerspec time = { { 0, 700000 }, { 0, 700000 } };
		must(timer_create(CLOCK_MONOTONIC, &event, &timers[i]) == 0, "timer_create");
		must(timer_settime(timers[i], 0, &time, NULL) == 0, "timer_settime");
	}
	// Signals are for any thread; this one is no worker, and takes its share.
	for (double end = now() + seconds; now() < end;) {
		struct timespec pause = { 0, 200000 };
		for (int i = 0; i < WORKERS; i++)
			pthread_kill(threads[i], pick(2) ? SIGUSR1 : SIGRTMIN);
		nanosleep(&pause, NULL);
	}
	stop = 1;
	// Timers go on until nobody sleeps.
	for (int i = 0; i < WORKERS; i++) {
		struct timespec limit;
		do {
			clock_gettime(CLOCK_REALTIME, &limit);
			limit.tv_sec += 1;
			pthread_kill(threads[i], SIGUSR1);
		} while (pthread_timedjoin_np(threads[i], NULL, &limit) != 0);
	}
	must(setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL) == 0, "setitimer");
	for (int i = 0; i < WORKERS; i++)
		timer_delete(timers[i]);
	long number;
	while ((number = get(0, IPC_NOWAIT)) >= 0)
		count_received(number);
	expect(errno == ENOMSG);
	printf("%ld sent, %ld received, %ld handlers, %ld of them jumped\n", sent_count, received_count, handled, jumped);
	expect(sent_sum == received_sum && sent_count == received_count);
	expect(bad_errors == 0 && handled > 100 && jumped > 10 && sent_count > 1000);
	for (int i = 0; i < 3; i++)
		expect(semctl(set, i, GETVAL) == (i < 2 ? 2 : 0) && semctl(set, i, GETNCNT) == 0);
	remove_all();
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	double seconds = argc > 2 ? atof(argv[2]) : 5;
	if (!strcmp(mode, "report"))
		report();
	else if (!strcmp(mode, "defaults"))
		defaults();
	else if (!strcmp(mode, "asleep"))
		asleep();
	else if (!strcmp(mode, "fault"))
		fault();
	else if (!strcmp(mode, "storm"))
		storm(seconds);
	else
		failures = failures + 1;
	printf("%s: %d failures\n", mode, failures);
	return failures != 0;
}

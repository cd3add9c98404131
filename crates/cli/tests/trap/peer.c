/* One end of a conversation, built with and without the dynamic loader.
 *
 * peer serve: waits for a message, takes a semaphore, writes into a segment, answers with its identifier.
 * peer ask:   does the asking, and prints what it finds in the segment.
 * peer mqserve, mqask:  the same by POSIX queues, one of which is polled.
 * peer notice ROUNDS:   is told of messages by a thread of libc's, each time with another value; closes a descriptor, and may register again.
 * peer sockets COUNT:   the same by COUNT sockets, one after the other.
 * peer guest:        a guest of host.py.
 * peer make COUNT:    makes that many queues.
 * peer count:         says how many there are.
 * peer lists:         the same, by the list in /proc.
 * peer directory:     uses /dev/mqueue by every call that is asked about.
 * peer apart HOW [COMMAND]: the same, or a command, from a new namespace, by unshare, clone, clone3 or vfork; by an orphan of who has unshared;
 *                     or by unshare and a user namespace.
 * peer join FILE [COMMAND]: the same from the namespace that a file stands for, or a process by its id.
 * peer refused:       the errors of all of them; nothing changes.
 * peer threads:       stays where it is, as one of two threads.
 * peer beside HOW COUNT: so many processes go, by unshare with other flags or by clone3, while others attach and detach segments.
 * peer killed COUNT:    so many processes of a new namespace are killed while they attach and detach; each is heard of by its parent.
 * peer traps:          a handler of SIGTRAP is still there after shmat and shmdt.
 * peer helped MS:      is stopped, so perhaps with a lock that another process waits for, and killed that many milliseconds later.
 * peer cycle:         goes elsewhere and comes back, with what it has attached and is to undo.
 * peer lie COUNT:       COUNT calls of each kind with memory that another thread changes, takes away and brings back; all goes on.
 * peer storm THREADS COUNT: COUNT messages to threads that are asleep in msgrcv, under signals, stops and kills; each is to arrive once,
 *                     but for those that a killed thread had just taken, which are counted at each kill. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct message {
    long type;
    int number;
};
#define SIZE sizeof(int)

static void need(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void serve(int queue, int set)
{
    struct message m;
    struct sembuf take = {0, -1, SEM_UNDO};
    need(msgrcv(queue, &m, SIZE, 1, 0) == SIZE, "msgrcv");
    need(semop(set, &take, 1) == 0, "semop");
    int segment = shmget(IPC_PRIVATE, 4096, 0600);
    char *at = shmat(segment, 0, 0);
    need(at != (void *)-1, "shmat");
    sprintf(at, "%d twice is %d", m.number, 2 * m.number);
    need(shmdt(at) == 0, "shmdt");
    need(msgrcv(queue, (void *)8, SIZE, 0, IPC_NOWAIT) == -1 && errno == ENOMSG, "an empty queue");
    need(msgsnd(queue, (void *)8, SIZE, 0) == -1 && errno == EFAULT, "a wild pointer");
    m = (struct message){2, segment};
    need(msgsnd(queue, &m, SIZE, 0) == 0, "msgsnd");
}

static void ask(int queue, int set)
{
    struct message m = {1, 21};
    struct shmid_ds ds;
    need(semctl(set, 0, SETVAL, 1) == 0, "SETVAL");
    need(msgsnd(queue, &m, SIZE, 0) == 0, "msgsnd");
    need(msgrcv(queue, &m, SIZE, 2, 0) == SIZE, "msgrcv");
    char *at = shmat(m.number, 0, SHM_RDONLY);
    need(at != (void *)-1, "shmat");
    need(shmctl(m.number, IPC_STAT, &ds) == 0 && shmctl(m.number, IPC_RMID, 0) == 0, "shmctl");
    /* The server's end gives back what it took. */
    struct sembuf take = {0, -1, 0};
    need(semop(set, &take, 1) == 0, "semop");
    printf("%s, attached %lu\n", at, (unsigned long)ds.shm_nattch);
}

static mqd_t posix_queue(const char *name)
{
    struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 16};
    mqd_t queue = mq_open(name, O_CREAT | O_RDWR, 0600, &attributes);
    need(queue != (mqd_t)-1, "mq_open");
    return queue;
}

static void talk(int serves)
{
    mqd_t asked = posix_queue("/asked"), answered = posix_queue("/answered");
    struct timespec soon;
    struct mq_attr attributes;
    char text[16];
    unsigned priority;
    if (serves) {
        need(mq_receive(asked, text, sizeof text, &priority) > 0, "mq_receive");
        snprintf(text, sizeof text, "%d", 2 * atoi(text));
        need(mq_send(answered, text, strlen(text) + 1, priority + 1) == 0, "mq_send");
        return;
    }
    struct pollfd polled = {.fd = answered, .events = POLLIN};
    need(poll(&polled, 1, 0) == 0, "poll of an empty queue");
    need(mq_send(asked, "21", 3, 7) == 0, "mq_send");
    need(poll(&polled, 1, 10000) == 1, "poll");
    need(mq_getattr(answered, &attributes) == 0 && attributes.mq_curmsgs == 1, "mq_getattr");
    need(mq_receive(answered, text, sizeof text, &priority) > 0, "mq_receive");
    attributes.mq_flags = O_NONBLOCK;
    need(mq_setattr(answered, &attributes, 0) == 0, "mq_setattr");
    need(mq_receive(answered, text + 8, 16, 0) == -1 && errno == EAGAIN, "an empty queue");
    attributes.mq_flags = 0;
    need(mq_setattr(answered, &attributes, 0) == 0, "mq_setattr");
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec = soon.tv_nsec < 900000000 ? soon.tv_nsec + 100000000 : 999999999;
    need(mq_timedreceive(answered, text + 8, 16, 0, &soon) == -1 && errno == ETIMEDOUT, "a timeout");
    need(mq_unlink("/asked") == 0 && mq_unlink("/answered") == 0, "mq_unlink");
    printf("21 twice is %s, %u\n", text, priority);
}

static int told[2];

static void on_message(union sigval value)
{
    need(write(told[1], &value.sival_int, sizeof(int)) == sizeof(int), "write");
}

static void notice(int rounds)
{
    mqd_t queue = posix_queue("/notice"), other = mq_open("/notice", O_RDONLY);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_message};
    struct sigevent none = {.sigev_notify = SIGEV_NONE};
    char text[16];
    int value, sum = 0;
    need(pipe(told) == 0 && other != (mqd_t)-1, "pipe, mq_open");
    for (int i = 1; i <= rounds; i++) {
        event.sigev_value.sival_int = i;
        need(mq_notify(queue, &event) == 0, "mq_notify");
        need(mq_notify(queue, &none) == -1 && errno == EBUSY, "a second registration");
        pid_t child = fork();
        if (child == 0)
            _exit(mq_send(queue, "x", 1, 0));
        need(waitpid(child, &value, 0) == child && value == 0, "a child that sends");
        need(read(told[0], &value, sizeof(int)) == sizeof(int) && value == i, "a thread");
        need(mq_receive(queue, text, sizeof text, 0) == 1, "mq_receive");
        sum += value;
    }
    /* What is removed is no message. */
    need(mq_notify(queue, &event) == 0 && mq_notify(queue, 0) == 0, "a registration that is taken back");
    need(mq_notify(queue, &event) == 0 && mq_close(other) == 0, "mq_close");
    need(mq_notify(queue, &none) == 0, "a registration after a close");
    need(mq_unlink("/notice") == 0, "mq_unlink");
    struct pollfd quiet = {.fd = told[0], .events = POLLIN};
    need(poll(&quiet, 1, 50) == 0, "nothing more to be told");
    printf("%d\n", sum);
}

static void sockets(int count)
{
    mqd_t queue = posix_queue("/sockets");
    char cookie[32] = "cookie", text[32];
    for (int i = 0; i < count; i++) {
        int fd = socket(AF_NETLINK, SOCK_RAW, 0);
        struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_signo = fd, .sigev_value.sival_ptr = cookie};
        need(fd >= 0 && syscall(SYS_mq_notify, queue, &event) == 0, "mq_notify");
        need(mq_send(queue, "x", 1, 0) == 0 && recv(fd, text, sizeof text, 0) == sizeof text, "what is told");
        need(memcmp(text, cookie, 31) == 0 && text[31] == 1, "a message");
        need(mq_receive(queue, text, 16, 0) == 1 && close(fd) == 0, "mq_receive, close");
    }
    need(mq_unlink("/sockets") == 0, "mq_unlink");
    printf("%d\n", count);
}

/* What is in the directory, by the library's calls; each entry is a directory or a file as its kind says. */
static void list(DIR *directory, char *names)
{
    names[0] = 0;
    rewinddir(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != 0;) {
        struct stat seen;
        need(fstatat(dirfd(directory), entry->d_name, &seen, 0) == 0, entry->d_name);
        need(entry->d_type == (S_ISDIR(seen.st_mode) ? DT_DIR : DT_REG), "its kind");
        need(seen.st_ino == entry->d_ino || entry->d_name[1] == '.', "its inode");
        strcat(strcat(names, " "), entry->d_name);
    }
}

static void is_refused(int result, int error, const char *what)
{
    need(result == -1 && errno == error, what);
}

static void directory(void)
{
    const char *line = "QSIZE:5          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n";
    char text[100] = "", names[100];
    struct stat seen, of_link;
    struct statx seen_x;
    umask(022);
    is_refused(open("/dev/mqueue/q", O_RDONLY), ENOENT, "open of none");
    is_refused(stat("/dev/mqueue/q", &seen), ENOENT, "stat of none");
    is_refused(unlink("/dev/mqueue/q"), ENOENT, "unlink of none");
    mqd_t queue = mq_open("/q", O_RDWR | O_CREAT, 0640, 0);
    need(queue != (mqd_t)-1 && mq_send(queue, "hello", 5, 0) == 0, "mq_open, mq_send");
    int fd = open("/dev/mqueue/q", O_RDONLY | O_CLOEXEC);
    need(read(fd, text, sizeof text) == (int)strlen(line) && strcmp(text, line) == 0, "the line");
    need(fcntl(fd, F_GETFD) == FD_CLOEXEC && close(fd) == 0, "O_CLOEXEC");
    need(stat("/dev/mqueue/q", &seen) == 0 && lstat("/dev/mqueue/q", &of_link) == 0, "stat, lstat");
    need(seen.st_mode == 0100640 && seen.st_nlink == 1 && seen.st_size == 80 && seen.st_uid == geteuid(), "what stat tells");
    need(seen.st_gid == getegid() && seen.st_ino == of_link.st_ino && time(0) - seen.st_mtime < 20u, "what else it tells");
    need(statx(AT_FDCWD, "/dev/mqueue/q", 0, STATX_ALL, &seen_x) == 0, "statx");
    need(seen_x.stx_mode == 0100640 && seen_x.stx_size == 80 && seen_x.stx_ino == seen.st_ino, "what statx tells");
    need(stat("/dev/mqueue/", &seen) == 0 && seen.st_mode == 041777 && seen.st_size == 60, "the directory");
    need(access("/dev/mqueue/q", R_OK | W_OK) == 0 && access("/dev/mqueue/q", F_OK) == 0, "access");
    is_refused(access("/dev/mqueue/q", X_OK), EACCES, "access to execute");
    fd = open("/dev/mqueue/new", O_RDWR | O_CREAT | O_EXCL, 04777);
    need(fd >= 0 && close(fd) == 0 && stat("/dev/mqueue/new", &seen) == 0 && seen.st_mode == 0104755, "a new one");
    is_refused(open("/dev/mqueue/new", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST, "O_EXCL");
    is_refused(open("/dev/mqueue/q", O_RDONLY | O_DIRECTORY), ENOTDIR, "O_DIRECTORY");
    is_refused(open("/dev/mqueue/q/", O_RDONLY), ENOTDIR, "a slash");
    is_refused(open("/dev/mqueue", O_RDWR), EISDIR, "to write to the directory");
    is_refused(unlink("/dev/mqueue"), EISDIR, "unlink of the directory");
    /* By addresses that are none. */
    is_refused(syscall(SYS_statx, AT_FDCWD, "/dev/mqueue/q", 0, STATX_ALL, 8), EFAULT, "a wild pointer");

    DIR *all = opendir("/dev/mqueue");
    need(all != 0, "opendir");
    list(all, names);
    need(strcmp(names, " . .. q new") == 0, names);
    list(all, names);
    need(strcmp(names, " . .. q new") == 0, names);
    need(faccessat(dirfd(all), "q", R_OK, 0) == 0, "faccessat");
    fd = openat(dirfd(all), "q", O_RDONLY);
    need(fd >= 0 && read(fd, text, 6) == 6 && memcmp(text, "QSIZE:", 6) == 0 && close(fd) == 0, "openat");
    is_refused(unlinkat(dirfd(all), "q", AT_REMOVEDIR), ENOTDIR, "AT_REMOVEDIR");
    need(unlinkat(dirfd(all), "new", 0) == 0, "unlinkat");
    list(all, names);
    need(strcmp(names, " . .. q") == 0, names);
    /* As the old call lays them out: a number, a place, a length, a name, and the kind in the last byte. */
    struct old {
        unsigned long ino, next;
        unsigned short length;
        char name[];
    } *old = (void *)text;
    rewinddir(all);
    is_refused(syscall(SYS_getdents, dirfd(all), text, 4), EINVAL, "no room");
    int length = 0;
    for (const char *const *name = (const char *[]){".", "..", "q", 0}; *name; name++) {
        length = syscall(SYS_getdents, dirfd(all), text, sizeof *old + 8);
        need(length == old->length && strcmp(old->name, *name) == 0, "an old entry");
        need(text[length - 1] == (**name == 'q' ? DT_REG : DT_DIR), "its kind");
    }
    need(syscall(SYS_getdents, dirfd(all), text, sizeof text) == 0, "the end");
    need(fchdir(dirfd(all)) == 0 && stat("./q", &seen) == 0 && seen.st_size == 80 && closedir(all) == 0, "a relative path");
    need(unlink("q") == 0, "unlink");
    /* Who is asked for no right gives a name only; root has every right. */
    need(geteuid() != 0 || seteuid(65534) == 0, "seteuid");
    need(mq_open("/w", O_WRONLY | O_CREAT, 0200, 0) != (mqd_t)-1, "mq_open of one to write to");
    is_refused(open("/dev/mqueue/w", O_RDONLY), EACCES, "open for reading");
    fd = open("/dev/mqueue/w", O_PATH | O_RDWR | O_CREAT);
    need(fd >= 0 && read(fd, text, 1) == -1 && errno == EBADF && close(fd) == 0, "O_PATH");
    is_refused(open("/dev/mqueue/none", O_PATH | O_CREAT), ENOENT, "O_PATH of none");
    need(unlink("/dev/mqueue/w") == 0, "unlink of another");
    is_refused(stat("/dev/mqueue/q", &seen), ENOENT, "stat of what is removed");
    /* Others' files are what they were. */
    need(stat("/dev/null", &seen) == 0 && S_ISCHR(seen.st_mode), "/dev/null");
    is_refused(unlink("/dev/mqueuex"), ENOENT, "a longer name");
    all = opendir("/dev");
    need(all != 0 && readdir(all) != 0 && closedir(all) == 0, "/dev");
    puts("as it should be");
}

static void guest(void)
{
    struct message m;
    struct sembuf up = {0, 1, 0};
    int tickets = msgget(7, 0), set = semget(7, 1, 0), segment = shmget(7, 4096, 0);
    need(tickets >= 0 && set >= 0 && segment >= 0, "a host");
    need(msgrcv(tickets, &m, SIZE, 1, 0) == SIZE, "msgrcv");
    char *at = shmat(segment, 0, 0);
    need(at != (void *)-1, "shmat");
    at[m.number] = m.number;
    need(shmdt(at) == 0 && semop(set, &up, 1) == 0, "shmdt, semop");
    m.type = 2;
    need(msgsnd(tickets, &m, SIZE, 0) == 0, "msgsnd");
}

static char *shifting; /* two pages: what calls take and give, while another thread is at them */
static volatile int lying = 1;

static void *lie(void *unused)
{
    unsigned random = 1;
    while (lying) {
        random = random * 1103515245 + 12345;
        char *page = shifting + (random >> 16) % 2 * 4096;
        if ((random >> 20) % 4 == 0) {
            int protection = (random >> 24) % 2 ? PROT_NONE : PROT_READ;
            mmap(page, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        } else {
            mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            for (int i = 0; i < 100; i++, random = random * 1103515245 + 12345)
                ((volatile unsigned short *)page)[(random >> 16) % 2048] = random >> (i % 2 ? 16 : 28);
        }
    }
    return unused;
}

/* The errno of a call is one of its own, whatever the memory was. */
static void honest(const char *call, long result, const int *errors)
{
    for (; result == -1 && *errors; errors++)
        if (errno == *errors)
            return;
    need(result != -1, call);
}
#define HONEST(call, ...) honest(#call, call, (const int[]){EFAULT, __VA_ARGS__, 0})

static void race(int count)
{
    union semun {
        int value;
        void *at;
    } all;
    struct timespec soon = {0, 1000};
    pthread_t liar;
    int q = msgget(IPC_PRIVATE, 0600), set = semget(IPC_PRIVATE, 100, 0600), segment = shmget(IPC_PRIVATE, 1, 0600);
    mqd_t posix = mq_open("/race", O_CREAT | O_RDWR | O_NONBLOCK, 0600, 0);
    need(q >= 0 && set >= 0 && segment >= 0 && posix != (mqd_t)-1, "msgget, semget, shmget, mq_open");
    shifting = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(pthread_create(&liar, 0, lie, 0) == 0, "pthread_create");
    for (int i = 0; i < count; i++) {
        void *at = shifting + 4096 - i % 300;
        all.at = at;
        HONEST(msgsnd(q, at, i % 500, IPC_NOWAIT), EINVAL, EAGAIN);
        HONEST(msgrcv(q, at, i % 500, 0, IPC_NOWAIT | MSG_NOERROR), ENOMSG);
        HONEST(semtimedop(set, at, 1 + i % 40, &soon), EFBIG, EAGAIN, ERANGE, EINVAL, ENOSPC, E2BIG);
        HONEST(semctl(set, 0, SETALL, all), ERANGE);
        HONEST(semctl(set, 0, GETALL, all), EINVAL);
        HONEST(msgctl(q, IPC_STAT, at), EINVAL);
        HONEST(msgctl(q, IPC_SET, at), EINVAL, EPERM);
        HONEST(semctl(set, 0, IPC_STAT, all), EINVAL);
        HONEST(semctl(set, 0, IPC_SET, all), EINVAL, EPERM);
        HONEST(shmctl(segment, IPC_STAT, at), EINVAL);
        HONEST(shmctl(segment, IPC_SET, at), EINVAL, EPERM);
        HONEST(syscall(SYS_mq_timedsend, posix, at, i % 500, 0, at), EINVAL, EAGAIN);
        HONEST(syscall(SYS_mq_timedreceive, posix, at, 8192, at, at), EINVAL, EAGAIN);
        HONEST(syscall(SYS_mq_getsetattr, posix, 0, at), EINVAL);
        HONEST(open(at, O_RDONLY), ENOENT, ENAMETOOLONG, EISDIR, EMFILE, EACCES);
        HONEST(access(at, W_OK), ENOENT, ENAMETOOLONG, EACCES);
        HONEST(syscall(SYS_mq_open, at, O_RDONLY, 0, 0), ENOENT, ENAMETOOLONG, EACCES);
        HONEST(syscall(SYS_mq_open, "lie", O_RDWR | O_CREAT, 0600, at), EINVAL, EMFILE, ENOSPC, EACCES);
    }
    lying = 0;
    need(pthread_join(liar, 0) == 0, "pthread_join");
    mq_unlink("/lie");
    need(mq_unlink("/race") == 0, "mq_unlink");
    need(msgctl(q, IPC_RMID, 0) == 0 && semctl(set, 0, IPC_RMID) == 0 && shmctl(segment, IPC_RMID, 0) == 0, "IPC_RMID");
    printf("all honest\n");
}

static int queue;
static int *shared; /* what went wrong, and how often each message arrived */

static void nothing(int signal)
{
    (void)signal;
}

static void *receive(void *unused)
{
    struct message m;
    for (;;) {
        if (msgrcv(queue, &m, SIZE, 0, 0) >= 0)
            __sync_fetch_and_add(&shared[1 + m.number], 1);
        else if (errno == EIDRM)
            return unused;
        else if (errno != EINTR)
            __sync_fetch_and_add(&shared[0], 1);
    }
}

static pid_t start_receiver(int threads)
{
    pid_t receiver = fork();
    need(receiver >= 0, "fork");
    if (receiver == 0) {
        pthread_t thread;
        while (--threads > 0)
            pthread_create(&thread, 0, receive, 0);
        receive(0);
        _exit(0);
    }
    return receiver;
}

/* How many of the first messages have arrived. */
static int arrived(int sent)
{
    int sum = 0;
    for (int i = 0; i < sent; i++)
        sum += __atomic_load_n(&shared[1 + i], __ATOMIC_SEQ_CST) != 0;
    return sum;
}

static int queued(void)
{
    struct msqid_ds ds;
    need(msgctl(queue, IPC_STAT, &ds) == 0, "IPC_STAT");
    return ds.msg_qnum;
}

/* Waits until all messages have arrived, but those that went with a killed receiver. */
static void drain(pid_t receiver, int sent, int gone)
{
    kill(receiver, SIGCONT);
    for (int tries = 0; arrived(sent) + gone != sent; tries++) {
        errno = ETIMEDOUT;
        need(tries < 20000, "a message that never arrives");
        usleep(1000);
    }
}

static void storm(int threads, int count)
{
    shared = mmap(0, (count + 1) * sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    queue = msgget(IPC_PRIVATE, 0600);
    /* Before the receiver is there to be signalled. */
    struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, 0);
    action.sa_flags = 0;
    sigaction(SIGUSR2, &action, 0);
    pid_t receiver = start_receiver(threads);
    int kills = 0, gone = 0, status, once = 0;
    for (int i = 0; i < count; i++) {
        static const int SIGNALS[] = {SIGUSR1, SIGSTOP, SIGCONT, SIGUSR2, SIGUSR1, SIGCONT};
        struct message m = {1, i};
        int is_killed = i % 50 == 49, is_asleep = i % 100 == 49;
        kill(receiver, SIGNALS[i % 6]);
        /* Now and then long enough for the signal to be seen in the sleep. */
        if (i % 10 == 0)
            usleep(12000);
        if (is_killed) {
            if (is_asleep) {
                drain(receiver, i, gone);
                usleep(1000);
            }
            kill(receiver, SIGKILL);
            need(waitpid(receiver, &status, 0) == receiver && WIFSIGNALED(status), "waitpid");
            kills++;
            /* Each thread may have had one that it had not noted yet; those that slept had none. */
            int with_it = i - queued() - arrived(i) - gone;
            need(with_it >= 0 && with_it <= (is_asleep ? 0 : threads), "what a killed receiver took");
            gone += with_it;
        }
        int before = is_killed ? queued() : 0;
        need(msgsnd(queue, &m, SIZE, 0) == 0, "msgsnd");
        if (is_killed) {
            need(queued() == before + 1, "a message for the dead");
            receiver = start_receiver(threads);
        }
    }
    drain(receiver, count, gone);
    usleep(100000);
    need(msgctl(queue, IPC_RMID, 0) == 0, "IPC_RMID");
    waitpid(receiver, &status, 0);
    for (int i = 0; i < count; i++)
        once += shared[1 + i] == 1;
    printf("%d of %d once or gone with one of %d receivers, %d odd errors, status %d\n", once + gone, count, kills, shared[0], status);
}

static int count_queues(void)
{
    struct msginfo info;
    need(msgctl(0, MSG_INFO, (struct msqid_ds *)&info) >= 0, "MSG_INFO");
    return info.msgpool;
}

static pid_t child;
static char child_stack[65536] __attribute__((aligned(16)));

/* The parent of a child that goes on ends as that does. */
static void leave_it_to(pid_t pid)
{
    int status;
    if (pid == 0)
        return;
    need(pid > 0, "a child");
    need(waitpid(pid, &status, 0) == pid, "waitpid");
    exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static int go_on(void *command)
{
    execvp(*(char **)command, command);
    _exit(errno);
}

/* struct clone_args: flags first, the signal of the end in the fifth field. In memory that can't be written. */
static const unsigned long long clone_arguments[8] = {CLONE_NEWIPC, 0, 0, 0, SIGCHLD};

static void go_apart(const char *how, char **command)
{
    sigset_t blocked, seen;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    need(sigprocmask(SIG_SETMASK, &blocked, 0) == 0, "sigprocmask");
    if (strcmp(how, "unshare") == 0) {
        need(unshare(CLONE_NEWIPC) == 0, "unshare");
    } else if (strcmp(how, "user") == 0) {
        need(unshare(CLONE_NEWIPC | CLONE_NEWUSER) == 0, "unshare");
    } else if (strcmp(how, "orphan") == 0) {
        int ended[2], told[2];
        char byte;
        need(pipe(ended) == 0 && pipe(told) == 0, "pipe");
        pid_t waits = fork();
        if (waits == 0) {
            need(unshare(CLONE_NEWIPC) == 0, "unshare");
            if (fork() > 0)
                _exit(0);
            close(ended[1]);
            close(told[0]);
            need(read(ended[0], &byte, 1) == 0, "the parent's end");
        } else {
            int status;
            need(waitpid(waits, &status, 0) == waits && status == 0, "who unshares");
            close(ended[1]);
            close(told[1]);
            need(read(told[0], &byte, 1) == 0, "the orphan's end");
            exit(0);
        }
    } else if (strcmp(how, "clone") == 0) {
        leave_it_to(syscall(SYS_clone, CLONE_NEWIPC | SIGCHLD, 0, 0, 0, 0));
    } else if (strcmp(how, "clone3") == 0) {
        leave_it_to(syscall(SYS_clone3, clone_arguments, sizeof(clone_arguments)));
    } else {
        /* With a stack of its own, in memory that both have; the parent sleeps meanwhile. */
        char *top = child_stack + sizeof(child_stack);
        child = clone(go_on, top, CLONE_NEWIPC | CLONE_VM | CLONE_VFORK | SIGCHLD, command);
        leave_it_to(child);
    }
    need(sigprocmask(SIG_SETMASK, 0, &seen) == 0 && memcmp(&seen, &blocked, sizeof(long)) == 0, "the mask");
}

static void join(const char *what)
{
    int of = what[0] == '/' ? open(what, O_RDONLY) : syscall(SYS_pidfd_open, atoi(what), 0);
    need(of >= 0, what);
    need(setns(of, CLONE_NEWIPC) == 0, "setns");
}

static void *sleep_on(void *nothing)
{
    pause();
    return nothing;
}

static void refused(void)
{
    int before = count_queues();
    need(unshare(CLONE_NEWIPC | 1) == -1 && errno == EINVAL, "a flag that is none");
    need(syscall(SYS_clone, CLONE_NEWIPC | CLONE_SYSVSEM | SIGCHLD, 0, 0, 0, 0) == -1 && errno == EINVAL, "CLONE_SYSVSEM");
    need(syscall(SYS_clone, CLONE_NEWIPC | CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0) == -1 && errno == EINVAL, "flags that go together");
    need(syscall(SYS_clone3, 8, 64) == -1 && errno == EFAULT, "a wild pointer");
    need(syscall(SYS_clone3, clone_arguments, 63) == -1 && errno == EINVAL, "a size that is none");
    need(setns(99, CLONE_NEWIPC) == -1 && errno == EBADF, "no descriptor");
    need(setns(open("/dev/null", O_RDONLY), 0) == -1 && errno == EINVAL, "another descriptor");
    need(setns(socket(AF_UNIX, SOCK_STREAM, 0), 0) == -1 && errno == EINVAL, "a socket");
    need(count_queues() == before, "what has changed");
    puts("as it should be");
}

/* Otherwise than with the kernel, where the calling one goes. A child of clone goes all the same. */
static void of_two_threads(void)
{
    pthread_t thread;
    int status, before = count_queues();
    need(pthread_create(&thread, 0, sleep_on, 0) == 0, "pthread_create");
    need(unshare(CLONE_NEWIPC) == -1 && errno == EINVAL, "one of two threads");
    pid_t pid = syscall(SYS_clone, CLONE_NEWIPC | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(count_queues());
    need(waitpid(pid, &status, 0) == pid && status == 0, "a child");
    need(count_queues() == before, "what has changed");
    puts("as it should be");
}

static void attach_and_detach(void)
{
    int segment = shmget(IPC_PRIVATE, 4096, 0600);
    for (;;) {
        void *at = shmat(segment, 0, 0);
        need(at != (void *)-1 && shmdt(at) == 0, "shmat, shmdt");
    }
}

static void beside(const char *how, int count)
{
    pid_t workers[3];
    int status;
    for (int i = 0; i < 3; i++) {
        workers[i] = fork();
        if (workers[i] == 0)
            attach_and_detach();
    }
    while (count-- > 0) {
        int unshares = strcmp(how, "unshare") == 0;
        pid_t pid = unshares ? fork() : syscall(SYS_clone3, clone_arguments, sizeof(clone_arguments));
        if (pid == 0) {
            need(!unshares || unshare(CLONE_NEWIPC | CLONE_FS) == 0, "unshare");
            _exit(count_queues());
        }
        need(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0, "who goes");
    }
    for (int i = 0; i < 3; i++) {
        need(kill(workers[i], SIGKILL) == 0 && waitpid(workers[i], &status, 0) == workers[i], "a worker");
        need(WIFSIGNALED(status), "a worker's calls");
    }
    puts("as it should be");
}

static void killed(int count)
{
    int status;
    alarm(60);
    need(unshare(CLONE_NEWIPC) == 0, "unshare");
    for (int i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid == 0)
            attach_and_detach();
        usleep(2000 + i * 7919 % 3000);
        need(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "who was killed");
    }
    puts("as it should be");
}

static volatile int traps_seen;

static void see_trap(int signal)
{
    (void)signal;
    traps_seen++;
}

static void traps(void)
{
    need(signal(SIGTRAP, see_trap) != SIG_ERR, "signal");
    int segment = shmget(IPC_PRIVATE, 4096, 0600);
    void *at = shmat(segment, 0, 0);
    need(at != (void *)-1 && shmdt(at) == 0, "shmat and shmdt");
    __asm__ volatile("int3");
    printf("%d traps\n", traps_seen);
}

static void helped(int ms)
{
    struct sembuf zero[8];
    int set = semget(IPC_PRIVATE, 8, 0600);
    pid_t self = getpid(), other = fork();
    need(set >= 0 && other >= 0, "semget and fork");
    for (int i = 0; i < 8; i++)
        zero[i] = (struct sembuf){i, 0, IPC_NOWAIT};
    if (other != 0 && fork() == 0) {
        struct timespec begun, now;
        usleep(20000 + 1000 * (ms % 7));
        kill(self, SIGSTOP);
        /* Awake, as a sleep would be too long. */
        clock_gettime(CLOCK_MONOTONIC, &begun);
        do
            clock_gettime(CLOCK_MONOTONIC, &now);
        while ((now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1000000 < ms);
        kill(self, SIGKILL);
        usleep(50000);
        kill(other, SIGKILL);
        _exit(0);
    }
    for (;;)
        semop(set, zero, 8);
}

static void cycle(void)
{
    struct sembuf add = {0, 3, SEM_UNDO};
    struct shmid_ds ds;
    int set = semget(IPC_PRIVATE, 1, 0600), segment = shmget(IPC_PRIVATE, 8192, 0600);
    char *at = shmat(segment, 0, 0), *twice = shmat(segment, 0, 0);
    int home = open("/proc/self/ns/ipc", O_RDONLY | O_CLOEXEC);
    need(set == 0 && segment == 0 && at != (void *)-1 && twice != (void *)-1 && home >= 0, "objects");
    need(semop(set, &add, 1) == 0 && semctl(set, 0, GETVAL) == 3, "semop");
    strcpy(at, "here");
    for (int i = 0; i < 3; i++) {
        need(unshare(CLONE_NEWIPC) == 0, "unshare");
        need(shmctl(segment, IPC_STAT, &ds) == -1 && errno == EINVAL, "no segments");
        need(semctl(set, 0, GETVAL) == -1 && errno == EINVAL, "no sets");
        need(strcmp(at, "here") == 0, "what is attached");
        int here = open("/proc/thread-self/ns/ipc", O_RDONLY);
        need(msgget(IPC_PRIVATE, 0600) == 0 && here >= 0, "msgget");
        need(setns(home, CLONE_NEWIPC) == 0, "setns");
        need(semctl(set, 0, GETVAL) == 0, "what was to undo");
        need(shmctl(segment, IPC_STAT, &ds) == 0 && ds.shm_nattch == 2, "shm_nattch");
        need(setns(here, 0) == 0 && msgget(IPC_PRIVATE, 0600) == 1, "where it was");
        close(here);
    }
    need(shmdt(at) == 0, "shmdt");
    need(shmdt(at) == -1 && errno == EINVAL, "shmdt again");
    need(setns(home, 0) == 0, "setns");
    need(shmctl(segment, IPC_STAT, &ds) == 0 && ds.shm_nattch == 1, "shm_nattch");
    need(shmdt(twice) == 0 && shmctl(segment, IPC_RMID, 0) == 0, "shmdt, IPC_RMID");
    puts("as it should be");
}

int main(int count, char **arguments)
{
    need(count > 1, "what to do");
    if (strcmp(arguments[1], "storm") == 0) {
        storm(atoi(arguments[2]), atoi(arguments[3]));
        return 0;
    }
    if (strcmp(arguments[1], "lie") == 0) {
        race(atoi(arguments[2]));
        return 0;
    }
    if (strcmp(arguments[1], "notice") == 0) {
        notice(atoi(arguments[2]));
        return 0;
    }
    if (strcmp(arguments[1], "sockets") == 0) {
        sockets(atoi(arguments[2]));
        return 0;
    }
    if (strcmp(arguments[1], "directory") == 0) {
        directory();
        return 0;
    }
    if (strcmp(arguments[1], "guest") == 0) {
        guest();
        return 0;
    }
    if (strncmp(arguments[1], "mq", 2) == 0) {
        talk(strcmp(arguments[1], "mqserve") == 0);
        return 0;
    }
    if (strcmp(arguments[1], "make") == 0) {
        alarm(60);
        for (int i = 0; i < atoi(arguments[2]); i++)
            need(msgget(IPC_PRIVATE, 0600) >= 0, "msgget");
        return 0;
    }
    if (strcmp(arguments[1], "refused") == 0) {
        refused();
        return 0;
    }
    if (strcmp(arguments[1], "threads") == 0) {
        of_two_threads();
        return 0;
    }
    if (strcmp(arguments[1], "beside") == 0) {
        beside(arguments[2], atoi(arguments[3]));
        return 0;
    }
    if (strcmp(arguments[1], "killed") == 0) {
        killed(atoi(arguments[2]));
        return 0;
    }
    if (strcmp(arguments[1], "traps") == 0) {
        traps();
        return 0;
    }
    if (strcmp(arguments[1], "helped") == 0)
        helped(atoi(arguments[2]));
    if (strcmp(arguments[1], "cycle") == 0) {
        cycle();
        return 0;
    }
    if (strcmp(arguments[1], "apart") == 0 || strcmp(arguments[1], "join") == 0) {
        if (strcmp(arguments[1], "apart") == 0)
            go_apart(arguments[2], arguments + 3);
        else
            join(arguments[2]);
        if (count > 3) {
            execvp(arguments[3], arguments + 3);
            need(0, arguments[3]);
        }
    }
    if (strcmp(arguments[1], "count") == 0 || strcmp(arguments[1], "apart") == 0 || strcmp(arguments[1], "join") == 0) {
        printf("%d queues\n", count_queues());
        return 0;
    }
    if (strcmp(arguments[1], "lists") == 0) {
        /* By a name that means nothing without the directory. */
        need(chdir("/proc/sysvipc") == 0, "chdir");
        FILE *list = fopen("msg", "r");
        int lines = 0;
        need(list != 0, "the list");
        for (int c; (c = getc(list)) != EOF;)
            lines += c == '\n';
        printf("%d queues\n", lines - 1);
        return 0;
    }
    int common = msgget(1, IPC_CREAT | 0600), set = semget(1, 1, IPC_CREAT | 0600);
    need(common >= 0 && set >= 0, "msgget, semget");
    (strcmp(arguments[1], "serve") == 0 ? serve : ask)(common, set);
    return 0;
}

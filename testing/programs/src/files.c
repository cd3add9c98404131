/*
 * files PATH-OF-A-DIRECTORY: what a C program does with the files of its IPC namespace, a line each; the outcome is the same on the
 * kernel and on ours. Whoever runs it may write the sysctls. PATH is a directory that it may write to.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MSGMAX "/proc/sys/kernel/msgmax"
#define MSG "/proc/sysvipc/msg"

/* What open and openat are where the compiler is told to fortify. */
int __open_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);

/* Addresses that the compiler doesn't know. */
static char *volatile null, *volatile wild = (char *)1;

static void say(const char *what, long result)
{
	if (result == -1)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, result);
	fflush(stdout);
}

/* What the limit is, read in a way of its own each time it is asked. */
static long msgmax(void)
{
	char text[64] = "";
	int fd = open(MSGMAX, O_RDONLY);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		return -1;
	close(fd);
	return atol(text);
}

static void is_header(const char *what, int fd)
{
	char text[256] = "";

	if (fd < 0) {
		say(what, -1);
		return;
	}
	ssize_t got = read(fd, text, 255);

	printf("%s: %s\n", what, got > 0 && !strncmp(text, "       key      msqid perms", 27) ? "the list" : "something else");
	close(fd);
}

static void paths(const char *directory)
{
	char name[4096];
	int dir = open("/proc/sysvipc", O_RDONLY | O_DIRECTORY);

	is_header("open", open(MSG, O_RDONLY));
	is_header("open64", open64(MSG, O_RDONLY | O_CLOEXEC));
	is_header("openat absolute", openat(-1, MSG, O_RDONLY));
	is_header("openat", openat(dir, "msg", O_RDONLY));
	is_header("openat64", openat64(dir, "./msg", O_RDONLY));
	is_header("fortified open", __open_2(MSG, O_RDONLY));
	is_header("fortified openat", __openat_2(dir, "msg", O_RDONLY));
	is_header("openat by dots", openat(dir, "../sysvipc/msg", O_RDONLY));
	is_header("dots and slashes", open("//proc/./self/../sysvipc//msg", O_RDONLY));
	close(dir);
	if (chdir("/proc/sysvipc"))
		abort();
	is_header("relative", open("msg", O_RDONLY));
	is_header("creat flags", open("msg", O_RDONLY | O_CREAT, 0644));
	snprintf(name, sizeof(name), "%s/msg", directory);
	if (symlink(MSG, name))
		abort();
	is_header("symbolic link", open(name, O_RDONLY));
	is_header("symbolic link, not followed", open(name, O_RDONLY | O_NOFOLLOW));
	unlink(name);
	/* A file of the same name is the program's own. */
	int own = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);

	say("own file", write(own, "text", 4));
	say("own file, at a place", pwrite(own, "t", 1, 3));
	close(own);
	is_header("own file again", open(name, O_RDONLY));
	unlink(name);
	is_header("gone", open(name, O_RDONLY));
	is_header("as a directory", open(MSG "/", O_RDONLY));
	is_header("directory wanted", open(MSG, O_RDONLY | O_DIRECTORY));
	is_header("exclusive", open(MSG, O_RDONLY | O_CREAT | O_EXCL, 0600));
	say("null", open(null, O_RDONLY));
	char *bad = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	say("bad address", open(bad, O_RDONLY));
	say("bad address, access", access(bad, R_OK));
	say("bad address, fopen", fopen(bad, "r") ? 0 : -1);
	/* Refused before the path is read. */
	say("bad address and mode, access", access(bad, 8));
	say("bad address and mode, fopen", fopen(bad, "?") ? 0 : -1);
	say("access", access(MSG, R_OK));
	say("access to execute", access(MSG, X_OK));
	say("access to write", access(MSGMAX, R_OK | W_OK));
	say("faccessat", faccessat(AT_FDCWD, MSGMAX, W_OK, AT_EACCESS));
}

/* Which of the namespace's files a directory lists, and what each is. */
static void listing(const char *directory, const char *names)
{
	DIR *dir = opendir(directory);
	int found = 0, plain = 0;

	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		struct stat status;
		struct statx more;

		char word[300], among[300];

		snprintf(word, sizeof(word), " %s ", entry->d_name);
		snprintf(among, sizeof(among), " %s ", names);
		if (!strstr(among, word))
			continue;
		found++;
		plain += !fstatat(dirfd(dir), entry->d_name, &status, 0) && S_ISREG(status.st_mode) && status.st_size == 0 &&
			 !statx(dirfd(dir), entry->d_name, 0, STATX_BASIC_STATS, &more) && more.stx_mode == status.st_mode;
	}
	printf("%s: %d of %s, %d plain files\n", directory, found, names, plain);
	if (dir)
		closedir(dir);
}

static void reading(void)
{
	char text[256] = "", again[256] = "";
	int fd = open(MSG, O_RDONLY), copy = dup(fd), flags = fcntl(fd, F_GETFL);
	ssize_t got = read(fd, text, 100);

	say("close on exec", fcntl(fd, F_GETFD));
	say("access mode", flags & O_ACCMODE);
	say("place of the copy", lseek(copy, 0, SEEK_CUR) == got ? 100 : got);
	say("back", lseek(copy, 0, SEEK_SET));
	say("again", read(fd, again, 100) == got && !memcmp(text, again, got));
	say("pread", pread(fd, again, 50, 10) == 50 && !memcmp(text + 10, again, 50));
	say("write", write(fd, "1", 1));
	close(fd);
	close(copy);
	struct stat status;

	say("stat", stat(MSG, &status));
	printf("mode: %o\n", status.st_mode);
	fd = open(MSG, O_RDONLY);
	fstat(fd, &status);
	printf("mode of the open one: %o\n", status.st_mode);
	close(fd);

	FILE *stream = fopen64(MSG, "re");

	say("fopen64", stream && fgets(again, sizeof(again), stream) && !strncmp(text, again, 20));
	fclose(stream);
	stream = fopen(MSG, "re");

	say("fgets", stream && fgets(again, sizeof(again), stream) && !strncmp(text, again, 20));
	say("rewind", fseek(stream, 0, SEEK_SET));
	say("fgets again", fgets(again, sizeof(again), stream) && !strncmp(text, again, 20));
	stream = freopen("/proc/sysvipc/sem", "r", stream);
	say("freopen", stream && fgets(again, sizeof(again), stream) && strstr(again, "semid") != NULL);
	fclose(stream);
}

static void writing(void)
{
	int fd = open(MSGMAX, O_WRONLY | O_CREAT | O_TRUNC, 0644), copy, high;
	struct iovec parts[] = { { "1", 1 }, { "2 ", 2 }, { "3", 1 } };

	say("write", write(fd, "100\n", 4));
	say("is", msgmax());
	say("further on", write(fd, "200\n", 4));
	say("is", msgmax());
	say("place", lseek(fd, 0, SEEK_CUR));
	say("pwrite", pwrite(fd, "300", 3, 0));
	say("is", msgmax());
	say("pwrite further on", pwrite(fd, "x", 1, 1));
	say("pwrite nowhere", pwrite(fd, "1", 1, -1));
	copy = dup(fd);
	lseek(copy, 0, SEEK_SET);
	say("by a copy", write(copy, "400", 3));
	say("is", msgmax());
	say("place", lseek(fd, 0, SEEK_CUR));
	high = fcntl(fd, F_DUPFD_CLOEXEC, 50);
	close(copy);
	copy = dup2(fd, copy);
	lseek(fd, 0, SEEK_SET);
	say("writev by another copy", writev(high, parts, 3));
	say("is", msgmax());
	lseek(fd, 0, SEEK_SET);
	say("garbage", write(copy, "abc", 3));
	say("minus", write(copy, "-1", 2));
	say("place", lseek(fd, 0, SEEK_CUR));
	say("nothing", write(fd, "", 0));
	say("bad address", write(fd, wild, 3));
	say("too large", write(fd, mmap(NULL, 4 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4 << 20));
	say("read", read(fd, (char[4]){ 0 }, 4));
	/* The numbers are the program's again, for whatever it opens. */
	int pipes[2];

	close(high);
	close(copy);
	dup2(open("/dev/null", O_WRONLY), fd);
	say("to something else", write(fd, "500", 3));
	close(fd);
	if (pipe(pipes))
		abort();
	say("to a pipe", write(pipes[1], "600", 3));
	say("is", msgmax());
}

static void streams(void)
{
	FILE *stream = fopen(MSGMAX, "w");

	fprintf(stream, "%d\n", 1000);
	say("fclose", fclose(stream));
	say("is", msgmax());
	stream = fopen(MSGMAX, "w");
	fputs("1100\n", stream);
	say("fflush", fflush(stream));
	say("is", msgmax());
	fputs("1200\n", stream);
	say("fclose", fclose(stream));
	say("is", msgmax());
	stream = fopen(MSGMAX, "w");
	setvbuf(stream, NULL, _IONBF, 0);
	fputs("1300\n", stream);
	say("unbuffered", fclose(stream));
	say("is", msgmax());
	stream = fopen(MSGMAX, "w");
	fputs("nonsense\n", stream);
	say("fflush of nonsense", fflush(stream));
	say("ferror", ferror(stream) != 0);
	fclose(stream);
	stream = fopen(MSGMAX, "w");
	fputs("nonsense\n", stream);
	say("fclose of nonsense", fclose(stream));
	stream = fdopen(open(MSGMAX, O_WRONLY), "w");
	fputs("1400", stream);
	say("fflush of all", fflush(NULL));
	say("is", msgmax());
	fclose(stream);
	stream = fopen("/dev/null", "r");
	int number = fileno(stream);

	stream = freopen(MSGMAX, "w", stream);
	say("freopen", stream && fileno(stream) == number);
	fputs("1450", stream);
	say("fclose", fclose(stream));
	say("is", msgmax());
	say("a file that is not there", fopen("/nowhere/msgmax", "w") ? 0 : -1);
}

/* Standard output of a child, as a shell does it. */
static void children(void)
{
	int fd = open(MSGMAX, O_WRONLY | O_CLOEXEC), status;
	pid_t child = vfork();

	if (child == 0) {
		dup2(fd, 1);
		execl("/bin/echo", "echo", "1500", NULL);
		_exit(127);
	}
	waitpid(child, &status, 0);
	say("child", status);
	say("is", msgmax());
	close(fd);
	fd = open(MSGMAX, O_WRONLY);
	fflush(stdout);
	child = fork();
	if (child == 0) {
		dup2(fd, 1);
		printf("1600\n");
		exit(0);
	}
	waitpid(child, &status, 0);
	close(fd);
	say("child that exits", status);
	say("is", msgmax());
	fd = open(MSG, O_RDONLY);
	child = fork();
	if (child == 0) {
		dup2(fd, 0);
		execl("/usr/bin/head", "head", "-c", "26", NULL);
		_exit(127);
	}
	waitpid(child, &status, 0);
	say("\nchild that reads", status);
}

static int cleaned;

static void cleanup(void *unused)
{
	(void)unused;
	cleaned = 1;
}

static void *sleeper(void *path)
{
	pthread_cleanup_push(cleanup, NULL);
	open(path, O_RDONLY);
	pthread_cleanup_pop(0);
	return NULL;
}

/* open is a cancellation point, ours too. */
static void cancellation(const char *directory)
{
	char name[4096];
	pthread_t thread;
	void *result;

	snprintf(name, sizeof(name), "%s/shm", directory);
	if (mkfifo(name, 0600) || pthread_create(&thread, NULL, sleeper, name))
		abort();
	usleep(100000);
	pthread_cancel(thread);
	pthread_join(thread, &result);
	say("cancelled", result == PTHREAD_CANCELED);
	say("cleaned up", cleaned);
	unlink(name);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	paths(argv[1]);
	listing("/proc/sysvipc", "msg sem shm");
	listing("/proc/sys/kernel", "msgmax msgmnb msgmni auto_msgmni sem shmmax shmall shmmni shm_rmid_forced msg_next_id sem_next_id shm_next_id");
	reading();
	writing();
	streams();
	children();
	cancellation(argv[1]);
	return 0;
}

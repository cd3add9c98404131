/*
 * write FILE TEXT: opens the file for reading and writing, reads, writes the text at its beginning, reads again, and says what came of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    char before[64] = "", after[64] = "";
    if (count != 3)
        return 2;
    int fd = open(arguments[1], O_RDWR);
    int is_read = fd >= 0 && pread(fd, before, sizeof before - 1, 0) > 0;
    ssize_t taken = pwrite(fd, arguments[2], strlen(arguments[2]), 0);
    int error = taken < 0 ? errno : 0;
    is_read = is_read && pread(fd, after, sizeof after - 1, 0) > 0;
    if (!is_read || pread(fd, before, sizeof before, 1) != 0)
        return 1;
    printf("%d %zd %s%s", error, taken, before, after);
    return 0;
}

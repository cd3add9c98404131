# Writes values to every sysctl of IPC, in range and out of it: what came of it, and what is then read, one line each.
#
# The argument: where the files are, or the command `ipcspace`, by which it is done then. With `deaf` behind it, what came of it is left out; with a program
# (write.c) there, that does it.
import errno
import os
import subprocess
import sys

place = sys.argv[1]
deaf = sys.argv[2:] == ["deaf"]
program = None if deaf else sys.argv[2:]

INT = ["0", "2147483647", "-1", "2147483648", "x"]
LONG = ["0", "18446744073709551615", "-1", "18446744073709551616", "x", "4096"]
COUNT = ["0", "32768", "32769", "-1"]
BOOL = ["1", "0", "2", "-1"]
NEXT = ["5", "2147483647", "-1", "-2"]
MESSAGES = ["1", "65536", "0", "65537", "-1"]
SIZE = ["128", "16777216", "127", "16777217", "-1"]
TABLE = {
    "kernel/msgmax": INT,
    "kernel/msgmnb": INT,
    "kernel/msgmni": COUNT,
    "kernel/auto_msgmni": BOOL,
    "kernel/sem": ["1 2 3 4", "7", "-1 -2 -3 5", "8 9 10 32769", "11 12 13 -1", "21 22 23 24 25", "x"],
    "kernel/shmmax": LONG,
    "kernel/shmall": LONG,
    "kernel/shmmni": COUNT,
    "kernel/shm_rmid_forced": BOOL,
    "kernel/msg_next_id": NEXT,
    "kernel/sem_next_id": NEXT,
    "kernel/shm_next_id": NEXT,
    "fs/mqueue/queues_max": INT,
    "fs/mqueue/msg_max": MESSAGES,
    "fs/mqueue/msgsize_max": SIZE,
    "fs/mqueue/msg_default": MESSAGES,
    "fs/mqueue/msgsize_default": SIZE,
}
ERRORS = {os.strerror(number): name for number, name in errno.errorcode.items()}


def by_file(name, value):
    path = os.path.join(place, name)
    came_of_it = "ok"
    try:
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        came_of_it = errno.errorcode[error.errno]
    with open(path) as file:
        return came_of_it, file.read()


def by_command(name, value):
    sysctl = [place, "sysctl"]
    done = subprocess.run([*sysctl, "-q", f"{name}={value}"], capture_output=True, text=True)
    told = done.stderr.strip().rsplit(": ", 1)[-1]
    came_of_it = "ok" if done.returncode == 0 else ERRORS.get(told, done.stderr)
    return came_of_it, subprocess.run([*sysctl, "-n", name], capture_output=True, text=True).stdout


def by_program(name, value):
    done = subprocess.run([*program, os.path.join(place, name), value], capture_output=True, text=True)
    return done.returncode, done.stdout


way = by_program if program else by_file if os.path.isdir(place) else by_command
for name, values in TABLE.items():
    for value in values:
        came_of_it, now = way(name, value)
        print(f"{name} {value!r}:", *[came_of_it] * (not deaf), now.split())

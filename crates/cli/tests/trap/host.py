"""Host of the guests that its arguments start: each gets a ticket by a message, writes its number into a segment, raises a
semaphore, and answers. Its own calls are libc's, so the library serves them."""

import ctypes
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
KEY, CREATE, NOWAIT, GETVAL = 7, 0o1600, 0o4000, 12


class Message(ctypes.Structure):
    _fields_ = [("type", ctypes.c_long), ("number", ctypes.c_int)]


def need(result, what):
    if result == -1:
        raise OSError(ctypes.get_errno(), what)
    return result


queue = need(libc.msgget(KEY, CREATE), "msgget")
semaphores = need(libc.semget(KEY, 1, CREATE), "semget")
segment = need(libc.shmget(KEY, 4096, CREATE), "shmget")
memory = (ctypes.c_ubyte * 4096).from_address(libc.shmat(segment, None, 0))
for number, guest in enumerate(sys.argv[1:], 1):
    process = subprocess.Popen(guest, shell=True)
    message = Message(1, number)
    need(libc.msgsnd(queue, ctypes.byref(message), 4, 0), "msgsnd")
    if process.wait():
        sys.exit(f"{guest}: {process.returncode}")
    need(libc.msgrcv(queue, ctypes.byref(message), 4, 2, NOWAIT), "msgrcv")
    value = libc.semctl(semaphores, 0, GETVAL, 0)
    if (message.number, value, memory[number]) != (number, number, number):
        sys.exit(f"{guest}: {message.number}, {value}, {memory[number]}")
print(f"{len(sys.argv) - 1} guests")

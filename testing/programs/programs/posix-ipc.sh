# PyPI's posix_ipc with all its own tests; its semaphores and its memory are libc's.
cd "$FETCHED/posix_ipc"
export PYTHONPATH="$PWD/lib" PYTHONDONTWRITEBYTECODE=1
/usr/bin/python3 -m unittest discover

# PyPI's sysv_ipc with all its own tests.
cd "$FETCHED/sysv_ipc"
export PYTHONPATH="$PWD/lib" PYTHONDONTWRITEBYTECODE=1
/usr/bin/python3 -m unittest discover

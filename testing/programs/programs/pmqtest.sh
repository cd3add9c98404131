# rt-tests' pmqtest: pairs of threads answer each other by POSIX queues.
# It wants the right to real-time priorities, and without it ends at once as if all were well.
# capability: sys_nice
set -euo pipefail
chrt --fifo 1 true 2>/dev/null || { echo "no right to real-time priorities"; exit 77; }
# As with svsematest.
ulimit -s 256
pmqtest -q -p 50 -t 2 -i 500 -l 1000 | tee output
grep -q 'Cycles 1000' output
# It takes the time of its timeout too early, so that it passes: and closes and unlinks queues below threads that sleep in them.
{ pmqtest -q -p 50 -i 500 -l 1000 -T 1 2>&1 || true; } | tee output
[[ $(grep 'could not' output | sort -u) == 'could not receive test message: Connection timed out' ]]

# rt-tests' svsematest: pairs of threads, then of processes, wake each other by semaphores, so many loops.
# It wants the right to real-time priorities, and without it ends at once as if all were well.
# capability: sys_nice
set -euo pipefail
chrt --fifo 1 true 2>/dev/null || { echo "no right to real-time priorities"; exit 77; }
# It locks all its memory: the stacks of its threads have to fit into what an ordinary user may lock.
ulimit -s 256
svsematest -q -t 2 -i 500 -l 1000 | tee threads
svsematest -q -f -t 2 -i 500 -l 1000 | tee processes
grep -q 'Cycles 1000' threads
grep -q 'Cycles 1000' processes

# rt-tests' svsematest: pairs of threads, then of processes, wake each other by semaphores, so many loops.
set -eu
svsematest -q -t 2 -i 500 -l 1000 | tee threads
svsematest -q -f -t 2 -i 500 -l 1000 | tee processes

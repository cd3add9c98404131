# Perl's IPC::Shareable, variables in segments with semaphores as their locks, with all its own tests that are not for its author alone.
set -eu
# One of them makes segments until there are no more. Where the limit can be lowered, it is done sooner.
(echo 500 >/proc/sys/kernel/shmmni) 2>/dev/null || true
cd "$FETCHED/ipc-shareable"
CI_TESTING=1 prove t

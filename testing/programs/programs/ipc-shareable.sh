# Perl's IPC::Shareable, variables in segments with semaphores as their locks, with all its own tests that are not for its author alone.
set -eu
# One of them makes segments until there are no more. Where the limit can be lowered, it is done sooner.
(echo 500 >/proc/sys/kernel/shmmni) 2>/dev/null || true
cd "$FETCHED/ipc-shareable"
export CI_TESTING=1
# Two have races of their own: a child goes to sleep though it has been told to wake up, and a reader finds the end before its writer has come
# to it. They get several tries.
racing=(t/35-clean.t t/36-ipcav.t)
prove $(printf '%s\n' t/*.t | grep -vxF "$(printf '%s\n' "${racing[@]}")")
for test in "${racing[@]}"; do
	tries=8
	until timeout 30 prove "$test"; do
		((--tries)) || exit 1
	done
done

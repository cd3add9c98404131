# Perl's IPC::Shareable, variables in segments with semaphores as their locks, with all its own tests that are not for its author alone.
set -eu
# One of them makes segments until there are no more. Where the limit can be lowered, it is done sooner.
(echo 500 >/proc/sys/kernel/shmmni) 2>/dev/null || true
cd "$FETCHED/ipc-shareable"
export CI_TESTING=1
# They have races of their own. A child that is told to wake up just before it goes to sleep sleeps for ever: what does not come to an end is tried
# again. And a reader may find the end before its writer has come to it.
racing=t/36-ipcav.t
for test in t/*.t; do
	for _ in {1..8}; do
		status=0
		timeout 30 prove -Q "$test" || status=$?
		[[ $status == 124 || $test == "$racing" && $status != 0 ]] || break
	done
	((status == 0)) || exit 1
done

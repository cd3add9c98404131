# Perl's IPC::Shareable, variables in segments with semaphores as their locks, with all its own tests that are not for its author alone.
cd "$FETCHED/ipc-shareable" && CI_TESTING=1 prove t

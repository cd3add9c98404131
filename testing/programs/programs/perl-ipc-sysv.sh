# Perl's IPC::SysV with its own tests for messages and semaphores.
# Left out until shared memory is ours: shm.t, and ipcsysv.t, which needs a segment for its ftok and shmat checks.
cd "$FETCHED/perl/cpan/IPC-SysV"
prove t/msg.t t/sem.t

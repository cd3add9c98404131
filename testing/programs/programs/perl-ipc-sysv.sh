# Perl's IPC::SysV with its own tests.
cd "$FETCHED/perl/cpan/IPC-SysV"
prove t/msg.t t/sem.t t/shm.t t/ipcsysv.t

# Perl's built-in msgget, semop, shmread and the rest, with perl's own tests of them.
cp -r "$FETCHED/perl/t" .
cd t
prove io/msg.t io/sem.t io/semctl.t io/shm.t

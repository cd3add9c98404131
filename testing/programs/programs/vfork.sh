# Children of vfork that use messages and semaphores, are killed, and execute something.
"$FETCHED/bin/vfork"

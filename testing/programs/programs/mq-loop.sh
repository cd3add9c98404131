# One process that serves 100 POSIX queues by epoll.
"$FETCHED/bin/mq-loop"

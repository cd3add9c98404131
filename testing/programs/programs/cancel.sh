# Threads that are cancelled asleep, before a call and at any moment, or that end in their sleep.
"$FETCHED/bin/cancel"

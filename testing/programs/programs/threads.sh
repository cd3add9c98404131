# Short threads without end leave nothing behind that would run out.
"$FETCHED/bin/threads" "${THREADS_COUNT:-1000000}"

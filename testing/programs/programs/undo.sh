# A parent kills its child, waits for it, and finds SEM_UNDO applied: each time.
"$FETCHED/bin/undo" "${UNDO_COUNT:-1000}"

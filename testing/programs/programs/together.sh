# All threads of a process make their first call at once: none is taken for another.
"$FETCHED/bin/together" 600

# glibc's own tests of the System V calls and of POSIX queues.
set -eu
for test in "$FETCHED"/bin/glibc/*; do
	echo "$(basename "$test")"
	case ${DOOR:-}$test in
	# Notifications by a thread, and closing what has a registration: the trap has neither.
	trap*/tst-mqueue[356]) ;;
	# It executes what it is told, which is to see that exec closes a queue.
	*/tst-mqueue7) "$test" "$test" ;;
	*) "$test" ;;
	esac
done

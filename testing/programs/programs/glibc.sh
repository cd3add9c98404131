# glibc's own tests of the System V calls and of POSIX queues.
set -eu
for test in "$FETCHED"/bin/glibc/*; do
	echo "$(basename "$test")"
	case $test in
	# It executes what it is told, which is to see that exec closes a queue.
	*/tst-mqueue7) "$test" "$test" ;;
	*) "$test" ;;
	esac
done

# glibc's own tests of the System V calls.
set -eu
for test in "$FETCHED"/bin/glibc/*; do
	echo "$(basename "$test")"
	"$test"
done

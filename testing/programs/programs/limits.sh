# Little address space, few descriptors or none left, locked memory: messages and semaphores work, no mapping fills up.
set -eu

# exchange: two Perl processes and a queue, as any program would.
exchange='
	my $id = msgget(0, 01600) // die "msgget: $!\n";
	defined(my $pid = fork) or die "fork: $!\n";
	if (!$pid) { msgsnd($id, pack("l! a*", 1, "text"), 0) or die "msgsnd: $!\n"; exit }
	msgrcv($id, my $got, 100, 0, 0) // die "msgrcv: $!\n";
	waitpid $pid, 0;
	msgctl($id, 0, 0) or die "msgctl: $!\n";
	$? == 0 && (unpack "l! a*", $got)[1] eq "text" or die "another text\n"'

failed=0
# under LIMIT VALUE COMMAND...: the limit holds for this command alone.
under() (
	limit=$1 value=$2
	shift 2
	ulimit "$limit" "$value"
	"$@" || { echo "FAILED under ulimit $limit $value: $*"; exit 1; }
)

limits=$FETCHED/bin/limits
under -v 200000 "$limits" plain || failed=1
under -v 200000 "$limits" lock-first || failed=1
under -v 200000 perl -e "$exchange" || failed=1
under -n 64 "$limits" plain || failed=1
under -n 64 "$limits" fds-later || failed=1
under -n 64 perl -e "$exchange" || failed=1
"$limits" lock-first || failed=1
"$limits" lock-later || failed=1
under -n 64 "$limits" fds-first || failed=1
under -n 64 "$limits" fds-one || failed=1
# A segment that does not fit, and one that does.
segments='
	use Errno;
	my $large = shmget(0, 300 << 20, 01600) // die "shmget: $!\n";
	shmread($large, my $got, 0, 1) and die "it was attached\n";
	$!{ENOMEM} or die "not attached: $!\n";
	my $small = shmget(0, 1 << 20, 01600) // die "shmget: $!\n";
	shmwrite($small, "text", 5000, 4) && shmread($small, $got, 5000, 4) && $got eq "text" or die "shmwrite, shmread: $!\n";
	for ($large, $small) { shmctl($_, 0, 0) or die "shmctl: $!\n" }'
under -v 200000 perl -e "$segments" || failed=1
if [ -n "${IPCSPACE_BIN:-}" ]; then
	# The whole of ours, started where the limits hold already.
	under -v 200000 "$IPCSPACE_BIN" run -- "$limits" plain || failed=1
	under -n 64 "$IPCSPACE_BIN" run -- "$limits" plain || failed=1
fi
exit $failed

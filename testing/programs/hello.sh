#!/bin/sh
# Two programs of the machine, util-linux's ipcmk and Perl, share a message queue:
#
#     cargo run --release -p cli -- run -- sh testing/programs/hello.sh
#
# ipcmk makes the queue and ends; one Perl process sends, another receives; the queue is listed, and removed.
set -eu

# The ipcspace that runs this script, or the kernel's own tool where none does.
list() {
	parent=$(readlink "/proc/$PPID/exe" || true)
	case "${IPCSPACE_BIN:-$parent}" in
	*/ipcspace) "${IPCSPACE_BIN:-$parent}" ls -q ;;
	*) ipcs -q ;;
	esac
}

id=$(ipcmk -Q | sed -n 's/^Message queue id: //p')
echo "ipcmk made the message queue $id"

perl -e 'my ($id, @texts) = @ARGV;
         for (@texts) { msgsnd($id, pack("l! a*", 1, $_), 0) or die "msgsnd: $!\n" }
         print "perl $$ sent ", scalar @texts, " messages\n"' "$id" hello world
echo "the namespace has now:"
list
perl -e 'my ($id, $text) = @ARGV;
         my @texts = map { msgrcv($id, my $m, 100, 0, 0) // die "msgrcv: $!\n"; (unpack "l! a*", $m)[1] } 1..2;
         print "perl $$ received: @texts\n";
         "@texts" eq "hello world" or die "another text was sent\n"' "$id"

ipcrm -q "$id"
if perl -e 'use Errno "EINVAL"; exit(msgctl($ARGV[0], 2, my $stat) || $! != EINVAL)' "$id"; then
	echo "the queue $id is gone"
else
	echo "the queue $id is still there" >&2
	exit 1
fi

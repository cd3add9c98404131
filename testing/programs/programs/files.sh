# /proc/sysvipc and the sysctls, by the programs that people read and write them with: to the byte, and to the error.
# An ordinary user has no right to write the kernel's sysctls, and has it in a namespace of ours: its owner is root there.
set -u
failed=0
# is WHAT EXPECTED GOT
is() { [[ $2 == "$3" ]] || { echo "FAILED $1: expected '$2', got '$3'"; failed=1; }; }
has() { [[ $3 == *"$2"* ]] || { echo "FAILED $1: expected it to have '$2': '$3'"; failed=1; }; }

limits=/proc/sys/kernel
is 'message limits' '8192 16384 32000 0' "$(cd $limits && echo $(<msgmax) $(<msgmnb) $(<msgmni) $(<auto_msgmni))"
is 'semaphore limits' $'32000\t1024000000\t500\t32000' "$(cat $limits/sem)"
is 'segment limits' '18446744073692774399 18446744073692774399 4096 0' \
	"$(cd $limits && echo $(<shmmax) $(<shmall) $(<shmmni) $(<shm_rmid_forced))"

# Lists, against what msgctl, semctl and shmctl tell.
perl -e '
	use strict;
	use IPC::SysV;
	my $failed = 0;
	sub is { my ($what, $expected, $got) = @_;
		$expected eq $got or $failed = 1, print "FAILED $what: expected\n${expected}got\n$got" }
	sub file { open my $f, "<", $_[0] or die "$_[0]: $!\n"; local $/; <$f> }
	my $queues = "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n";
	my $sets = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n";
	my $segments = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n";
	is "no queues", $queues, file "/proc/sysvipc/msg";
	is "no sets", $sets, file "/proc/sysvipc/sem";
	is "no segments", $segments, file "/proc/sysvipc/shm";
	my @queues = map { msgget($_->[0], 01000 | $_->[1]) // die "msgget: $!\n" } [0x1234, 0640], [0, 0400], [-559038737, 0777], [5, 0600];
	msgsnd($queues[0], pack("l! a*", 1, "x" x $_), 0) or die "msgsnd: $!\n" for 100, 8000;
	msgrcv($queues[0], my $got, 100, 0, 0) or die "msgrcv: $!\n";
	msgctl($queues[3], 0, 0) or die "msgctl: $!\n";
	for my $id (@queues[0 .. 2]) {
		my $queue;
		my @s = msgctl($id, 2, $queue) ? unpack("l L L L L L S S L Q Q q q q Q Q Q l l", $queue) : die "msgctl: $!\n";
		$queues .= sprintf "%10d %10d  %4o  %10u %10u %5u %5u %5u %5u %5u %5u %10u %10u %10u\n",
			$s[0], $id, $s[5], @s[14, 15, 17, 18, 1 .. 4, 11, 12, 13];
	}
	is "queues", $queues, file "/proc/sysvipc/msg";
	my @sets = map { semget($_->[0], $_->[1], 01000 | $_->[2]) // die "semget: $!\n" } [77, 3, 0600], [0, 32000, 0404];
	semop($sets[0], pack "s3", 0, 1, 0) or die "semop: $!\n";
	for my $id (@sets) {
		my $set;
		my @s = semctl($id, 0, 2, $set) ? unpack("l L L L L L S S L Q Q q Q q Q Q", $set) : die "semctl: $!\n";
		$sets .= sprintf "%10d %10d  %4o %10u %5u %5u %5u %5u %10u %10u\n", $s[0], $id, $s[5], $s[15], @s[1 .. 4, 11, 13];
	}
	is "sets", $sets, file "/proc/sysvipc/sem";
	my @segments = map { shmget($_->[0], $_->[1], 01000 | $_->[2]) // die "shmget: $!\n" }
		[0x1234, 5000, 0640], [0, 1, 0600], [-559038737, 70000, 0604], [5, 16 << 20, 0600];
	# Two pages have something in them.
	shmwrite($segments[0], "x" x 5000, 0, 5000) or die "shmwrite: $!\n";
	IPC::SysV::shmat($segments[$_], undef, 0) // die "shmat: $!\n" for 2, 2, 3;
	shmctl($segments[3], 0, 0) or die "shmctl: $!\n";
	shmctl($segments[1], 11, 0) or die "shmctl: $!\n" if $< == 0;
	for my $id (@segments) {
		my $segment;
		my @s = shmctl($id, 2, $segment) ? unpack("l L L L L L S S L Q Q Q q q q l l Q", $segment) : die "shmctl: $!\n";
		$segments .= sprintf "%10d %10d  %4o %21u %5u %5u  %5u %5u %5u %5u %5u %10u %10u %10u %21u %21u\n",
			$s[0], $id, @s[5, 11, 15, 16, 17, 1 .. 4, 12, 13, 14], $id == $segments[0] ? 8192 : 0, 0;
	}
	is "segments", $segments, file "/proc/sysvipc/shm";
	exit $failed' || failed=1

# A list longer than any buffer.
perl -e 'for (1 .. 500) { msgget(0, 01600) // die "msgget: $!\n" }'
is 'rows of a long list' 504 "$(wc -l </proc/sysvipc/msg)"
is 'its last row' 503 "$(tail -n 1 /proc/sysvipc/msg | awk '{print $2 % 32768}')"

me=$(id -un)
me=${me:0:10} # all that ipcs has room for
has 'ipcs -q' "0x00001234 0          $me" "$(ipcs -q)"
has 'ipcs -q' '640        8000         1' "$(ipcs -q)"
has 'ipcs -s' "0x0000004d 0          $me" "$(ipcs -s)"
is 'ipcs -s' 2 "$(ipcs -s | grep -c '^0x')"
has 'ipcs -m' "0x00001234 0          $me" "$(ipcs -m)"
has 'ipcs -m' '640        5000       0' "$(ipcs -m)"
is 'ipcs -m' 3 "$(ipcs -m | grep -c '^0x')"
has 'ipcs -m -p' "0          $me" "$(ipcs -m -p)"
has 'ipcs -u' 'segments allocated 3' "$(ipcs -u)"
is 'lsipc -m' '0x00001234 0 5000 0
0x00000000 1 1 0
0xdeadbeef 2 70000 0' "$(lsipc -m -b -r --noheadings -o KEY,ID,SIZE,NATTCH)"
has 'lsipc' '4096    3' "$(lsipc)"
has 'ipcs -l' 'max queues system wide = 32000' "$(ipcs -l)"
has 'ipcs -u' 'allocated queues = 503' "$(ipcs -u)"
has 'lsipc' '32000  503' "$(lsipc)"
is 'lsipc -q' 504 "$(lsipc -q | wc -l)"
has 'sysctl -a' 'kernel.msgmni = 32000' "$(sysctl -a 2>/dev/null)"
is 'python' 504 "$(python3 -c 'print(len(open("/proc/sysvipc/msg").readlines()))')"
id=$(ipcmk -Q | grep -o '[0-9]*$')
has 'ipcmk' "$id" "$(cat /proc/sysvipc/msg)"
ipcrm -q "$id"
id=$(ipcmk -M 7000 | grep -o '[0-9]*$')
has 'ipcmk' " 7000 " "$(ipcs -m -i "$id"; grep "^ *[^ ]* *$id " /proc/sysvipc/shm)"
ipcrm -m "$id"
is 'ipcrm' 4 "$(wc -l </proc/sysvipc/shm)"
is 'ipcrm' 504 "$(wc -l </proc/sysvipc/msg)"

if [[ ! -w $limits/msgmax ]]; then
	[[ -z ${IPCSPACE_BIN:-} ]] || { echo 'FAILED: the owner may not write'; exit 1; }
	has 'no right' 'Permission denied' "$( (echo 1 >$limits/msgmax) 2>&1)"
	exit $failed
fi

# written WHAT: the limit is the next number; `next` is what the writer has to write.
next=100
written() { is "$1" "$next" "$(<$limits/msgmax)"; next=$((next + 1)); }
cd $limits
echo $next >msgmax; written 'bash, echo'
printf '%d\n' $next >>msgmax; written 'bash, printf'
dash -c "echo $next >msgmax"; written dash
/bin/echo $next >msgmax; written '/bin/echo'
seq $next $next >msgmax; written seq
echo $next | cat >msgmax; written cat
echo $next | tee msgmax >/dev/null; written tee
echo $next | dd of=$limits/msgmax status=none; written dd
awk "BEGIN { print $next >\"$limits/msgmax\" }"; written awk
awk "BEGIN { print $next }" >msgmax; written 'awk, redirected'
sed -n "1s/.*/$next/w msgmax" /proc/version; written sed
exec 7>msgmax; /bin/echo $next >&7; exec 7>&-; written 'a descriptor that is kept'
(echo $next; echo 1; /bin/echo 2) >msgmax; written 'only the first write'
sysctl -q -w kernel.msgmax=$next; written sysctl
python3 -c "open('msgmax', 'w').write('$next')"; written 'python, open'
python3 -c "import os; os.write(os.open('/proc/sys/kernel/msgmax', os.O_WRONLY), b'$next')"; written 'python, os.write'
python3 -c "import subprocess; subprocess.run(['echo', '$next'], stdout=open('msgmax', 'w'))"; written 'python, subprocess'
perl -e "open F, '>', 'msgmax' or die; print F $next; close F or die"; written perl
dash -c "echo $next >&3" 3>msgmax; written 'a shell that was handed it'
python3 -c "import subprocess; f = open('msgmax', 'w'); subprocess.run('true'); f.write('$next'); f.close()"
written 'python, after a child that closed it'
mkdir "$HOME/own" && echo $next >"$HOME/own/msgmax" && cp "$HOME/own/msgmax" msgmax; written cp
is 'an own file of the name' $((next - 1)) "$(cat "$HOME/own/msgmax")"
sh -c 'nohup sh -c "sleep 0.1; echo '$next' >msgmax" >/dev/null 2>&1 & wait'; written 'a daemon'

# Who writes by the trap may hear of no error: nothing is written then.
if [[ $DOOR == trap ]]; then
	before=$(<msgmax)
	for text in abc -1 99999999999999999999999; do
		echo "$text" >msgmax
		is "garbage: $text" "$before" "$(<msgmax)"
	done
	echo 1 2 3 40000 >sem
else
has 'bash, garbage' 'Invalid argument' "$(bash -c 'echo abc >msgmax' 2>&1)"
is 'bash, garbage' 1 "$(bash -c 'echo abc >msgmax; echo $?' 2>/dev/null)"
is 'dash, garbage' 1 "$(dash -c 'echo abc >msgmax; echo $?' 2>/dev/null)"
has 'cat, garbage' 'Invalid argument' "$(echo -1 | cat 2>&1 >msgmax)"
has 'sysctl, garbage' 'Invalid argument' "$(sysctl -w kernel.msgmax=x 2>&1)"
has 'python, garbage' 'OSError: [Errno 22]' "$(python3 -c 'with open("msgmax", "w") as f: f.write("x")' 2>&1)"
has 'perl, garbage' 'Invalid argument' "$(perl -e 'open F, ">", "msgmax"; print F "x"; close F or print $!')"
has 'semmni' 'Numerical result out of range' "$(bash -c 'echo 1 2 3 40000 >sem' 2>&1)"
fi
is 'sem keeps the others' $'1\t2\t3\t32000' "$(<sem)"
echo 250 32000 >sem
is 'a short list' $'250\t32000\t3\t32000' "$(<sem)"
sysctl -q -w kernel.sem='32000 1024000000 500 32000'
has 'a file that is not there' 'No such file' "$(bash -c 'echo 1 >nonsense' 2>&1)"

# The limits are those of the calls.
echo 20 >msgmax
is msgmax 'Invalid argument' "$(perl -e 'msgsnd(msgget(5, 01600), pack("l! a21", 1, ""), 0) or print $!')"
echo 8192 >msgmax
echo 503 >msgmni
is 'msgmni is reached' 'No space left on device' "$(perl -e 'msgget(0, 01600) // print $!')"
echo 32000 >msgmni
echo 65600 >msg_next_id
# The index 64 is taken, 504 the first one that is free.
is 'the next identifier' $((65536 + 504)) "$(ipcmk -Q | grep -o '[0-9]*$')"
is 'was used up' -1 "$(<msg_next_id)"
for id in shmmax shmall shmmni; do echo 12345 >$id; is $id 12345 "$(<$id)"; done
has 'ipcs, segments' 'max number of segments = 12345' "$(ipcs -m -l)"

# Every way of C.
mkdir "$HOME/files"
expected='open: the list
open64: the list
openat absolute: the list
openat: the list
openat64: the list
fortified open: the list
fortified openat: the list
openat by dots: the list
dots and slashes: the list
relative: the list
creat flags: the list
symbolic link: the list
symbolic link, not followed: ELOOP
own file: 4
own file, at a place: 1
own file again: something else
gone: ENOENT
as a directory: ENOTDIR
directory wanted: ENOTDIR
exclusive: EEXIST
null: EFAULT
bad address: EFAULT
bad address, access: EFAULT
bad address, fopen: EFAULT
bad address and mode, access: EINVAL
bad address and mode, fopen: EINVAL
access: 0
access to execute: EACCES
access to write: 0
faccessat: 0
/proc/sysvipc: 3 of msg sem shm, 3 plain files
/proc/sys/kernel: 12 of msgmax msgmnb msgmni auto_msgmni sem shmmax shmall shmmni shm_rmid_forced msg_next_id sem_next_id shm_next_id, 12 plain files
close on exec: 0
access mode: 0
place of the copy: 100
back: 0
again: 1
pread: 1
write: EBADF
stat: 0
mode: 100444
mode of the open one: 100444
fopen64: 1
fgets: 1
rewind: 0
fgets again: 1
freopen: 1
write: 4
is: 100
further on: 4
is: 100
place: 8
pwrite: 3
is: 300
pwrite further on: 1
pwrite nowhere: EINVAL
by a copy: 3
is: 400
place: 3
writev by another copy: 3
is: 12
garbage: EINVAL
minus: EINVAL
place: 0
nothing: 0
bad address: EFAULT
too large: ENOMEM
read: EBADF
to something else: 3
to a pipe: 3
is: 12
fclose: 0
is: 1000
fflush: 0
is: 1100
fclose: 0
is: 1100
unbuffered: 0
is: 1300
fflush of nonsense: EINVAL
ferror: 1
fclose of nonsense: EINVAL
fflush of all: 0
is: 1400
freopen: 1
fclose: 0
is: 1450
a file that is not there: ENOENT
child: 0
is: 1500
child that exits: 0
is: 1600
       key      msqid perm
child that reads: 0
cancelled: 1
cleaned up: 1'
# To who writes by the trap where /dev/fuse can't be opened, the file is an ordinary one, which takes whatever it is given.
by_trap=$(sed -e 's/^\(writev by another copy\): 3/\1: 4/; s/^garbage: EINVAL/garbage: 3/; s/^too large: ENOMEM/too large: 4194304/' \
	-e 's/^\(fflush\|fclose\) of nonsense: EINVAL/\1 of nonsense: 0/; s/^ferror: 1/ferror: 0/' \
	-e '/^minus: EINVAL/{ s//minus: 2/; n; s/0/5/ }' <<<"$expected")
# Otherwise it is one of FUSE, which hands a long text on in parts.
if (: <>/dev/fuse) 2>/dev/null; then by_trap=${expected/too large: ENOMEM/too large: EINVAL}; fi
# ways_of_c KIND EXPECTED
ways_of_c() {
	diff <(echo "$2") <("$FETCHED/bin/$1/files" "$HOME/files" 2>&1) || { echo "FAILED files.c, $1"; failed=1; }
}
[[ $DOOR == trap ]] && own=$by_trap || own=$expected
ways_of_c . "$own"
# Those that the library is not loaded into.
[[ $DOOR == kernel ]] || expected=$by_trap
if [[ $DOOR != preload ]]; then
	for kind in static 32 static32; do ways_of_c $kind "$expected"; done
	is 'busybox' "8192 $(wc -l </proc/sysvipc/msg)" \
		"$(busybox sh -c 'echo 8192 >msgmax; cd /proc/sysvipc; echo $(cat ../sys/kernel/msgmax) $(busybox wc -l <msg)')"
	is 'busybox, sysctl' 8000 "$(busybox sysctl -w kernel.msgmax=8000 >/dev/null; busybox sysctl -n kernel.msgmax)"
fi

is 'a thread that a constructor waits for' 0 \
	"$(timeout 20 python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$FETCHED/bin/constructor.so"; echo $?)"

if ((EUID == 0)); then
	as_other=(setpriv --reuid=65534 --regid=65534 --clear-groups)
	has 'another user' 'Permission denied' "$("${as_other[@]}" bash -c 'echo 1 >msgmax' 2>&1)"
	# By the trap it is the opener's right that counts.
	[[ $DOOR == trap ]] || is 'who has lost the right since' 'Operation not permitted' \
		"$(perl -e 'open F, ">", "msgmax" or die; $) = "65534 65534"; $> = 65534; syswrite(F, "1") or print $!')"
fi
# What ours does beyond the kernel: containers have a read-only /proc/sys, and a kernel may lack the files.
if ((EUID == 0)) && [[ -n ${IPCSPACE_BIN:-} ]]; then
	is 'a read-only /proc/sys' 77 "$(unshare --mount bash -c '
		mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && cd / && cd /proc/sys/kernel &&
		[[ -w msgmax ]] && echo 77 >msgmax && cat msgmax')"
	is 'no /proc/sysvipc' '0x00001234' "$(unshare --mount bash -c '
		mount -t tmpfs none /proc/sysvipc && ipcs -q' | grep -o 0x00001234)"
fi
exit $failed

# chronyd takes the time from a segment that another program, of the same user, writes (its SHM reference clock). It sets no clock.
set -eu
cat >chrony.conf <<CONF
refclock SHM 0:perm=0600 refid SHM poll 0 dpoll -4 filter 4 delay 0.1
pidfile $PWD/chronyd.pid
bindcmdaddress /
cmdport 0
port 0
logdir $PWD
log refclocks
CONF
"$FETCHED/chrony/usr/sbin/chronyd" -x -U -d -u "$(id -un)" -f "$PWD/chrony.conf" >chronyd.log 2>&1 &
chronyd=$!
trap 'status=$?; kill $chronyd 2>/dev/null || true; ((!status)) || tail -n 30 *.log; exit $status' EXIT
until ipcs -m | grep ^0x4e545030; do kill -0 $chronyd; sleep 0.1; done

# struct shmTime of ntpd's driver 28; `valid` goes back to 0 when the sample was taken.
perl -e '
	use Time::HiRes qw(time sleep);
	my $id = shmget(0x4e545030, 96, 0) // die "shmget: $!\n";
	my $taken = 0;
	for (1 .. 40) {
		my $now = time;
		my ($s, $us) = (int $now, int(1e6 * ($now - int $now)));
		my $sample = pack "i i q i x4 q i i i i i L L x32", 0, 0, $s, $us, $s, $us, 0, -20, 0, 1, 1000 * $us, 1000 * $us;
		shmwrite($id, $sample, 0, length $sample) or die "shmwrite: $!\n";
		my $got;
		for (1 .. 30) {
			shmread($id, $got, 0, 96) or die "shmread: $!\n";
			last if !(unpack "i i q i x4 q i i i i i", $got)[9];
			sleep 0.02;
		}
		$taken += !(unpack "i i q i x4 q i i i i i", $got)[9];
	}
	print "$taken of 40 samples were taken\n";
	exit($taken != 40)'
sleep 1.2
cat refclocks.log
# A line a sample; those that were combined have no number.
(($(grep -c ' SHM ' refclocks.log) >= 20))
kill $chronyd
wait $chronyd || true

# A PostgreSQL server with all its shared memory of System V, for parallel queries too: pgbench, a killed server, and its restart, which is
# refused as long as a stopped backend has the segment attached.
set -eu
bin=/usr/lib/postgresql/15/bin
[[ -x $bin/initdb ]] || { echo "no PostgreSQL 15"; exit 77; }
((EUID != 0)) || { echo "PostgreSQL does not run as root"; exit 77; }
export PATH=$bin:$PATH PGHOST=$PWD PGDATA=$PWD/data PGUSER=postgres PGDATABASE=postgres

initdb -U postgres -A trust --no-sync >/dev/null
cat >>"$PGDATA/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$PWD'
shared_memory_type = sysv
dynamic_shared_memory_type = sysv
fsync = off
min_parallel_table_scan_size = 0
parallel_setup_cost = 0
parallel_tuple_cost = 0
CONF
# The segments there are, and those that are attached.
segments() { ipcs -m | awk '/^0x/ { n++; a += $6 > 0 } END { print n + 0, a + 0 }'; }
# A child of this shell, so that the dead one is waited for, whatever process 1 does.
start() {
	postgres >>log 2>&1 &
	server=$!
	until pg_isready -q; do kill -0 $server; sleep 0.1; done
}
# Until no segment is attached more often than that.
until_attached() {
	for _ in {1..100}; do
		[[ $(ipcs -m | awk -v most="$1" '/^0x/ && $6 > most' | wc -l) == 0 ]] && return
		sleep 0.1
	done
}
trap 'status=$?; kill -QUIT $server 2>/dev/null || true; ((!status)) || cat log; exit $status' EXIT
start
read -r all attached < <(segments)
echo "started: $all segments, $attached attached"
((all >= 2 && attached >= 1))
pgbench -q -i -s 5
pgbench -c 8 -j 2 -T "${STRESS_SECONDS:-20}"
[[ $(psql -Atc 'SELECT sum(abalance) = (SELECT sum(delta) FROM pgbench_history) FROM pgbench_accounts') == t ]]
plan=$(psql -Atc 'EXPLAIN (ANALYZE) SELECT count(*), sum(abalance) FROM pgbench_accounts')
grep -q 'Workers Launched: [1-9]' <<<"$plan" || { echo "$plan"; exit 1; }
# A backend that is stopped sees nothing of the server's death, and keeps the segment.
psql -qc 'SELECT pg_sleep(600)' 2>/dev/null &
until backend=$(psql -Atc "SELECT pid FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'") && [[ $backend ]]; do sleep 0.1; done
kill -STOP "$backend"
kill -KILL $server
wait $server || true
until_attached 1
[[ $(segments) == "3 3" ]] || { ipcs -m; exit 1; }
if postgres >refused 2>&1; then echo "started beside a backend of before"; exit 1; fi
grep -q 'pre-existing shared memory block .* is still in use' refused || { cat refused; exit 1; }
kill -KILL "$backend"
until_attached 0
start
echo "refused while a stopped backend lived, and granted after"
# Who is killed leaves its segments; a server that is started when nobody has them attached removes them.
kill -KILL $server
wait $server || true
until_attached 0
read -r left attached < <(segments)
echo "killed: $left segments, $attached attached"
((left && !attached))
start
[[ $(psql -Atc 'SELECT count(*) FROM pgbench_accounts') == 500000 ]]
kill -INT $server
wait $server
[[ $(segments) == '0 0' ]] || { ipcs -m; exit 1; }

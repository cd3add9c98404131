# A PostgreSQL server with all its shared memory of System V, for parallel queries too: pgbench, a killed server, and its restart.
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
trap 'status=$?; kill -QUIT $server 2>/dev/null || true; ((!status)) || cat log; exit $status' EXIT
start
read -r all attached < <(segments)
echo "started: $all segments, $attached attached"
((all >= 2 && attached >= 1))
pgbench -q -i -s 1
pgbench -c 4 -j 2 -T "${STRESS_SECONDS:-5}"
[[ $(psql -Atc 'SELECT sum(abalance) = (SELECT sum(delta) FROM pgbench_history) FROM pgbench_accounts') == t ]]
plan=$(psql -Atc 'EXPLAIN (ANALYZE) SELECT count(*), sum(abalance) FROM pgbench_accounts')
grep -q 'Workers Launched: [1-9]' <<<"$plan" || { echo "$plan"; exit 1; }
# Who is killed leaves its segments; a server that is started when nobody has them attached removes them.
kill -KILL $server
wait $server || true
for _ in {1..100}; do
	read -r left attached < <(segments)
	((attached)) || break
	sleep 0.1
done
echo "killed: $left segments, $attached attached"
((left && !attached))
start
[[ $(psql -Atc 'SELECT count(*) FROM pgbench_accounts') == 100000 ]]
kill -INT $server
wait $server
[[ $(segments) == '0 0' ]] || { ipcs -m; exit 1; }

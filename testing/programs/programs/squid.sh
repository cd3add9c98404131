# Squid with diskd: its worker and the process that writes its cache, both of the user proxy, talk by two message queues and a segment. What was
# written is served from the disk, also after a restart.
set -eu
squid=$FETCHED/squid
[[ -x $squid/usr/sbin/squid ]] || { echo "no Squid"; exit 77; }
((EUID == 0)) || { echo "only root's processes can be proxy's"; exit 77; }

chown proxy: .
mkdir origin
for i in {1..40}; do head -c 20000 /dev/urandom | base64 >origin/$i; done
cat >origin.py <<PYTHON
import http.server, os
os.chdir("origin")
class Handler(http.server.SimpleHTTPRequestHandler):
    def end_headers(self):
        self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", $((PORTS + 3))), Handler).serve_forever()
PYTHON
cat >squid.conf <<CONF
http_port 127.0.0.1:$((PORTS + 4))
visible_hostname localhost
cache_effective_user proxy
cache_effective_group proxy
cache_dir diskd $PWD/cache 100 16 16
diskd_program $squid/usr/lib/squid/diskd
unlinkd_program $squid/usr/lib/squid/unlinkd
pinger_enable off
mime_table $squid/usr/share/squid/mime.conf
icon_directory $squid/usr/share/squid/icons
error_directory $squid/usr/share/squid-langpack/templates
cache_mem 0 KB
maximum_object_size_in_memory 0 KB
access_log stdio:$PWD/access.log
cache_log $PWD/cache.log
pid_filename $PWD/squid.pid
coredump_dir $PWD
shutdown_lifetime 1 seconds
http_access allow all
CONF
python3 origin.py >origin.log 2>&1 &
origin=$!
proxy=
trap 'status=$?; kill $origin $proxy 2>/dev/null || true; ((!status)) || tail -n 30 *.log output; exit $status' EXIT

get() { curl -sf --max-time 30 --proxy http://127.0.0.1:$((PORTS + 4)) "http://127.0.0.1:$((PORTS + 3))/$1"; }
start() {
	"$squid/usr/sbin/squid" -f "$PWD/squid.conf" -N >>output 2>&1 &
	proxy=$!
	until get 1 >/dev/null; do kill -0 $proxy; sleep 0.1; done
}
get_all() { local i; for i in {1..40}; do get $i | cmp - origin/$i; done; }
# How many were served from the disk.
hits() { grep -c ' TCP_HIT/200 ' access.log || true; }

"$squid/usr/sbin/squid" -f "$PWD/squid.conf" -z -N >>output 2>&1
start
pgrep -P $proxy -u proxy -f diskd >/dev/null || { echo "no diskd of proxy's"; exit 1; }
[[ $(ipcs -q | awk '/^0x/ { print $3 }' | sort | uniq -c) =~ ^\ *2\ proxy$ ]] || { ipcs -q; exit 1; }
[[ $(ipcs -m | awk '/^0x/ { print $3, $6 }') == 'proxy 2' ]] || { ipcs -m; exit 1; }
get_all
get_all
first=$(hits)
echo "$first objects from the disk"
((first >= 40))
kill -TERM $proxy
wait $proxy || true
start
get_all
echo "$(($(hits) - first)) more after a restart"
(($(hits) - first >= 40))
kill -TERM $proxy
wait $proxy || true
proxy=
# diskd ends a little later, and removes what there was.
for _ in {1..100}; do [[ $(ipcs | grep '^0x') ]] || exit 0; sleep 0.1; done
ipcs
exit 1

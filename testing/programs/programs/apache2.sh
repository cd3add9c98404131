# Apache with `Mutex sysvsem`: its master is root, and its workers, which take turns at accepting by a set that it hands over to them, are www-data.
# One is killed again and again; what it held is given back, and all requests are answered.
set -eu
apache2=/usr/sbin/apache2 modules=/usr/lib/apache2/modules
[[ -x $apache2 ]] || { echo "no Apache"; exit 77; }
((EUID == 0)) || { echo "only root's workers are another user's"; exit 77; }

mkdir htdocs
echo "served by a stranger" >htdocs/index.html
# Two ports, or there would be nothing to take turns at.
cat >apache2.conf <<CONF
ServerRoot $PWD
ServerName localhost
PidFile $PWD/pid
Listen 127.0.0.1:$((PORTS + 1))
Listen 127.0.0.1:$((PORTS + 2))
LoadModule mpm_prefork_module $modules/mod_mpm_prefork.so
LoadModule authz_core_module $modules/mod_authz_core.so
LoadModule dir_module $modules/mod_dir.so
Mutex sysvsem
User www-data
Group www-data
StartServers 4
MaxRequestWorkers 8
MaxConnectionsPerChild 50
KeepAlive Off
ErrorLog $PWD/error.log
DocumentRoot $PWD/htdocs
CONF
# In a group of its own, which it ends as a whole.
setsid "$apache2" -f "$PWD/apache2.conf" -DFOREGROUND >output 2>&1 &
master=$!
trap 'status=$?; kill $master 2>/dev/null || true; ((!status)) || tail -n 30 output error.log; exit $status' EXIT
until curl -sf http://127.0.0.1:$((PORTS + 1))/ | grep -q stranger; do kill -0 $master; sleep 0.1; done

sets() { ipcs -s | awk '/^0x/ { print $3 }' | sort | uniq -c; }
[[ $(sets) =~ ^\ *[1-9][0-9]*\ www-data$ ]] || { ipcs -s; exit 1; }
worker() { pgrep -P $master -u www-data | shuf -n 1; }
[[ $(worker) ]] || { echo "no worker is www-data's"; exit 1; }

answered=0
for round in {1..10}; do
	pids=()
	for client in {1..4}; do
		curl -sf --max-time 30 "http://127.0.0.1:$((PORTS + client % 2 + 1))/index.html?[1-25]" >"answers.$client" &
		pids+=($!)
	done
	((round % 3)) || kill -KILL "$(worker)"
	for pid in "${pids[@]}"; do wait "$pid" || failed=$((${failed:-0} + 1)); done
	answered=$((answered + $(cat answers.* | grep -c stranger)))
done
# A request that a killed worker had is lost, and with it the rest of its client's, at most.
echo "$answered of 1000 requests answered, ${failed:-0} clients met a death"
((answered >= 900 && ${failed:-0} <= 3))
! grep -E 'emerg|sem(get|ctl|op)' error.log
kill -TERM $master
wait $master || true
[[ -z $(sets) ]] || { ipcs -s; exit 1; }

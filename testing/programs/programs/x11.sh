# An X server and a program that takes pictures of its screen, which lie in segments that both have attached (MIT-SHM).
set -eu
Xvfb -displayfd 3 -screen 0 320x240x24 -shmem -wr -nolisten tcp 3>display >server.log 2>&1 &
server=$!
trap 'status=$?; kill $server 2>/dev/null || true; ((!status)) || tail -n 20 *.log; exit $status' EXIT
until [[ -s display ]]; do kill -0 $server; sleep 0.1; done
# Its screen is a segment too.
ipcs -m
[[ $(ipcs -m | grep -c ^0x) == 1 ]]

ffmpeg -nostdin -loglevel info -f x11grab -video_size 320x240 -framerate 20 -draw_mouse 0 -i ":$(<display)" -r 20 -frames:v 40 -f rawvideo -pix_fmt rgb24 pictures >ffmpeg.log 2>&1 &
ffmpeg=$!
both=0
while kill -0 $ffmpeg 2>/dev/null; do
	# Segments that two have attached.
	both=$((both + $(ipcs -m | awk '/^0x/ && $6 == 2' | wc -l)))
	sleep 0.02
done
wait $ffmpeg
# Without segments it goes on by another way, and says so.
if grep -i 'shared memory' ffmpeg.log; then exit 1; fi
echo "$both times a segment was seen that both have attached"
((both > 0))
# The screen is white, and so are all pictures.
[[ $(stat -c %s pictures) == $((40 * 320 * 240 * 3)) ]]
[[ $(tr -d '\377' <pictures | wc -c) == 0 ]]
kill $server
wait $server || true
# Its screen's segment outlives it, with nobody attached.
for _ in {1..50}; do
	[[ $(ipcs -m | awk '/^0x/ { print $6 }') != 0 ]] || exit 0
	sleep 0.1
done
ipcs -m
exit 1

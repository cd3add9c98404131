# stress-ng's stressors of message queues, semaphores and shared memory, which check what they get.
stress-ng --mq 4 --verify -t "${STRESS_SECONDS:-20}" --metrics-brief || exit
stress-ng --msg 4 --sem-sysv 4 --verify -t "${STRESS_SECONDS:-20}" --metrics-brief || exit
# Its instances take random keys, and two that meet at one remove each other's segment, on the kernel too: then it is tried once more.
for _ in 1 2; do
	stress-ng --shm-sysv 4 --shm-sysv-bytes 1m --verify -t "${STRESS_SECONDS:-20}" --metrics-brief && exit
done
exit 1

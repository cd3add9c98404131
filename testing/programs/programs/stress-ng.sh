# stress-ng's stressors of message queues, semaphores and shared memory, which check what they get.
stress-ng --msg 4 --sem-sysv 4 --verify -t "${STRESS_SECONDS:-20}" --metrics-brief &&
	stress-ng --shm-sysv 4 --shm-sysv-bytes 1m --verify -t "${STRESS_SECONDS:-20}" --metrics-brief

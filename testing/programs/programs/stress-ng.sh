# stress-ng's stressors of message queues and semaphores, which check what they get.
stress-ng --msg 4 --sem-sysv 4 --verify -t "${STRESS_SECONDS:-20}" --metrics-brief

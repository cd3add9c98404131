# PyPI's sysv_ipc with its own tests for message queues and semaphores.
# Left out until shared memory is ours: test_memory, and the tests of attach and remove_shared_memory in test_module.
cd "$FETCHED/sysv_ipc"
export PYTHONPATH="$PWD/lib" PYTHONDONTWRITEBYTECODE=1
/usr/bin/python3 -m unittest tests.test_message_queues tests.test_semaphores \
	tests.test_module.TestModuleConstants tests.test_module.TestModuleErrors

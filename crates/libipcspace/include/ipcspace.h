/*
 * ipcspace.h: System V IPC and POSIX message queues in a namespace of user space. See libipcspace(3).
 *
 * Each function is the call of its name; structures, flags and errors are those of the system's headers.
 * <ipcspace/names.h> maps the plain names to these, for programs that were written for the kernel.
 */
#ifndef IPCSPACE_H
#define IPCSPACE_H

#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/types.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Where the calls are made: to be chosen before the first one, once. 0, or -1 and errno; ipcspace_reason() then says more. A program that
 * doesn't choose is in the namespace of `ipcspace run`, else in that of the variable IPCSPACE_NAMESPACE, else in a private one.
 */
int ipcspace_private(void);		/* of this process and its children */
int ipcspace_open(const char *name);	/* of that name, which is there */
int ipcspace_join(const char *name);	/* of that name; whoever comes first makes it */
int ipcspace_current(void);		/* of `ipcspace run` */
int ipcspace_kernel(void);		/* the kernel's objects */
const char *ipcspace_reason(void);

int ipcspace_msgget(key_t key, int flags);
int ipcspace_msgsnd(int id, const void *message, size_t size, int flags);
ssize_t ipcspace_msgrcv(int id, void *message, size_t size, long type, int flags);
int ipcspace_msgctl(int id, int command, struct msqid_ds *buffer);

int ipcspace_semget(key_t key, int count, int flags);
int ipcspace_semop(int id, struct sembuf *operations, size_t count);
int ipcspace_semtimedop(int id, struct sembuf *operations, size_t count, const struct timespec *timeout);
int ipcspace_semctl(int id, int number, int command, ...);

int ipcspace_shmget(key_t key, size_t size, int flags);
void *ipcspace_shmat(int id, const void *address, int flags);
int ipcspace_shmdt(const void *address);
int ipcspace_shmctl(int id, int command, struct shmid_ds *buffer);

mqd_t ipcspace_mq_open(const char *name, int flags, ...);
int ipcspace_mq_close(mqd_t queue);
int ipcspace_mq_unlink(const char *name);
int ipcspace_mq_send(mqd_t queue, const char *message, size_t size, unsigned int priority);
int ipcspace_mq_timedsend(mqd_t queue, const char *message, size_t size, unsigned int priority,
			  const struct timespec *timeout);
ssize_t ipcspace_mq_receive(mqd_t queue, char *message, size_t size, unsigned int *priority);
ssize_t ipcspace_mq_timedreceive(mqd_t queue, char *message, size_t size, unsigned int *priority,
				 const struct timespec *timeout);
int ipcspace_mq_getattr(mqd_t queue, struct mq_attr *attributes);
int ipcspace_mq_setattr(mqd_t queue, const struct mq_attr *attributes, struct mq_attr *before);
int ipcspace_mq_notify(mqd_t queue, const struct sigevent *event);

#ifdef __cplusplus
}
#endif

#endif

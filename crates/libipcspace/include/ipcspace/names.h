/*
 * ipcspace/names.h: the plain names of System V IPC and POSIX message queues, as those of libipcspace(3).
 *
 * To be included before all else, as by `cc -include ipcspace/names.h`: the system's headers then declare the functions under their new names,
 * so nothing of a program changes, the macros that it asks for features by neither.
 */
#ifndef IPCSPACE_NAMES_H
#define IPCSPACE_NAMES_H

#define msgget ipcspace_msgget
#define msgsnd ipcspace_msgsnd
#define msgrcv ipcspace_msgrcv
#define msgctl ipcspace_msgctl

#define semget ipcspace_semget
#define semop ipcspace_semop
#define semtimedop ipcspace_semtimedop
#define semctl ipcspace_semctl

#define shmget ipcspace_shmget
#define shmat ipcspace_shmat
#define shmdt ipcspace_shmdt
#define shmctl ipcspace_shmctl

#define mq_open ipcspace_mq_open
#define mq_close ipcspace_mq_close
#define mq_unlink ipcspace_mq_unlink
#define mq_send ipcspace_mq_send
#define mq_timedsend ipcspace_mq_timedsend
#define mq_receive ipcspace_mq_receive
#define mq_timedreceive ipcspace_mq_timedreceive
#define mq_getattr ipcspace_mq_getattr
#define mq_setattr ipcspace_mq_setattr
#define mq_notify ipcspace_mq_notify

#endif

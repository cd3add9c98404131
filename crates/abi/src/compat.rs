//! What 32-bit programs (i386) have otherwise: numbers of calls, and structures in their new and old layouts.

/// Call numbers of i386.
pub mod nr {
    /// `ipc(2)`: all of System V by one call.
    pub const IPC: u32 = 117;
    /// `semget`.
    pub const SEMGET: u32 = 393;
    /// `semctl`.
    pub const SEMCTL: u32 = 394;
    /// `shmget`.
    pub const SHMGET: u32 = 395;
    /// `shmctl`.
    pub const SHMCTL: u32 = 396;
    /// `shmat`.
    pub const SHMAT: u32 = 397;
    /// `shmdt`.
    pub const SHMDT: u32 = 398;
    /// `msgget`.
    pub const MSGGET: u32 = 399;
    /// `msgsnd`.
    pub const MSGSND: u32 = 400;
    /// `msgrcv`.
    pub const MSGRCV: u32 = 401;
    /// `msgctl`.
    pub const MSGCTL: u32 = 402;
    /// `mq_open`.
    pub const MQ_OPEN: u32 = 277;
    /// `mq_unlink`.
    pub const MQ_UNLINK: u32 = 278;
    /// `mq_timedsend`.
    pub const MQ_TIMEDSEND: u32 = 279;
    /// `mq_timedreceive`.
    pub const MQ_TIMEDRECEIVE: u32 = 280;
    /// `mq_notify`.
    pub const MQ_NOTIFY: u32 = 281;
    /// `mq_getsetattr`.
    pub const MQ_GETSETATTR: u32 = 282;
    /// `mq_timedsend` with a time of 64 bits.
    pub const MQ_TIMEDSEND_TIME64: u32 = 418;
    /// `mq_timedreceive` with a time of 64 bits.
    pub const MQ_TIMEDRECEIVE_TIME64: u32 = 419;
    /// `semtimedop` with a time of 64 bits.
    pub const SEMTIMEDOP_TIME64: u32 = 420;
}

/// What `ipc(2)` is to do: the low half of its first argument.
pub mod op {
    /// `semop`.
    pub const SEMOP: u32 = 1;
    /// `semget`.
    pub const SEMGET: u32 = 2;
    /// `semctl`.
    pub const SEMCTL: u32 = 3;
    /// `semtimedop` with a time of 32 bits.
    pub const SEMTIMEDOP: u32 = 4;
    /// `msgsnd`.
    pub const MSGSND: u32 = 11;
    /// `msgrcv`.
    pub const MSGRCV: u32 = 12;
    /// `msgget`.
    pub const MSGGET: u32 = 13;
    /// `msgctl`.
    pub const MSGCTL: u32 = 14;
    /// `shmat`.
    pub const SHMAT: u32 = 21;
    /// `shmdt`.
    pub const SHMDT: u32 = 22;
    /// `shmget`.
    pub const SHMGET: u32 = 23;
    /// `shmctl`.
    pub const SHMCTL: u32 = 24;
}

crate::plain::plain! {
    /// `struct compat_ipc64_perm`.
    #[expect(missing_docs, reason = "named as in the structure of 64 bits")]
    pub struct CompatIpc64Perm {
        pub key: i32,
        pub uid: u32,
        pub gid: u32,
        pub cuid: u32,
        pub cgid: u32,
        pub mode: u16,
        #[doc(hidden)]
        pub pad1: u16,
        pub seq: u16,
        #[doc(hidden)]
        pub pad2: u16,
        #[doc(hidden)]
        pub unused: [u32; 2],
    }

    /// `struct compat_ipc_perm`, the old one.
    #[expect(missing_docs, reason = "named as in the structure of 64 bits")]
    pub struct CompatIpcPerm {
        pub key: i32,
        pub uid: u16,
        pub gid: u16,
        pub cuid: u16,
        pub cgid: u16,
        pub mode: u16,
        pub seq: u16,
    }

    /// `struct compat_msqid64_ds`; a time's upper half follows its lower one.
    #[expect(missing_docs, reason = "named as in the structure of 64 bits")]
    pub struct CompatMsqid64Ds {
        pub msg_perm: CompatIpc64Perm,
        pub msg_stime: [u32; 2],
        pub msg_rtime: [u32; 2],
        pub msg_ctime: [u32; 2],
        pub msg_cbytes: u32,
        pub msg_qnum: u32,
        pub msg_qbytes: u32,
        pub msg_lspid: i32,
        pub msg_lrpid: i32,
        #[doc(hidden)]
        pub unused: [u32; 2],
    }

    /// `struct compat_msqid_ds`, the old one.
    #[expect(missing_docs, reason = "named as in the structure of 64 bits")]
    pub struct CompatMsqidDs {
        pub msg_perm: CompatIpcPerm,
        #[doc(hidden)]
        pub msg_first: u32,
        #[doc(hidden)]
        pub msg_last: u32,
        pub msg_stime: u32,
        pub msg_rtime: u32,
        pub msg_ctime: u32,
        #[doc(hidden)]
        pub msg_lcbytes: u32,
        #[doc(hidden)]
        pub msg_lqbytes: u32,
        pub msg_cbytes: u16,
        pub msg_qnum: u16,
        pub msg_qbytes: u16,
        pub msg_lspid: u16,
        pub msg_lrpid: u16,
        #[doc(hidden)]
        pub pad: u16,
    }

    /// `struct compat_semid64_ds`.
    #[expect(missing_docs, reason = "named as in the structure of 64 bits")]
    pub struct CompatSemid64Ds {
        pub sem_perm: CompatIpc64Perm,
        pub sem_otime: [u32; 2],
        pub sem_ctime: [u32; 2],
        pub sem_nsems: u32,
        #[doc(hidden)]
        pub unused: [u32; 2],
    }

    /// `struct compat_semid_ds`, the old one.
    #[expect(missing_docs, reason = "named as in the structure of 64 bits")]
    pub struct CompatSemidDs {
        pub sem_perm: CompatIpcPerm,
        pub sem_otime: u32,
        pub sem_ctime: u32,
        #[doc(hidden)]
        pub pointers: [u32; 4],
        pub sem_nsems: u16,
        #[doc(hidden)]
        pub pad: u16,
    }

    /// `struct compat_shmid64_ds`.
    #[expect(missing_docs, reason = "named as in the structure of 64 bits")]
    pub struct CompatShmid64Ds {
        pub shm_perm: CompatIpc64Perm,
        pub shm_segsz: u32,
        pub shm_atime: [u32; 2],
        pub shm_dtime: [u32; 2],
        pub shm_ctime: [u32; 2],
        pub shm_cpid: i32,
        pub shm_lpid: i32,
        pub shm_nattch: u32,
        #[doc(hidden)]
        pub unused: [u32; 2],
    }

    /// `struct compat_shmid_ds`, the old one.
    #[expect(missing_docs, reason = "named as in the structure of 64 bits")]
    pub struct CompatShmidDs {
        pub shm_perm: CompatIpcPerm,
        pub shm_segsz: u32,
        pub shm_atime: u32,
        pub shm_dtime: u32,
        pub shm_ctime: u32,
        pub shm_cpid: u16,
        pub shm_lpid: u16,
        pub shm_nattch: u16,
        #[doc(hidden)]
        pub pad: u16,
        #[doc(hidden)]
        pub pointers: [u32; 2],
    }

    /// `struct compat_shminfo64`.
    #[expect(missing_docs, reason = "named as in the structure of 64 bits")]
    pub struct CompatShminfo64 {
        pub shmmax: u32,
        pub shmmin: u32,
        pub shmmni: u32,
        pub shmseg: u32,
        pub shmall: u32,
        #[doc(hidden)]
        pub unused: [u32; 4],
    }

    /// `struct shminfo`, the old one.
    #[expect(missing_docs, reason = "named as in the structure of 64 bits")]
    pub struct CompatShminfo {
        pub shmmax: u32,
        pub shmmin: u32,
        pub shmmni: u32,
        pub shmseg: u32,
        pub shmall: u32,
    }

    /// `struct compat_shm_info`, in both layouts.
    #[expect(missing_docs, reason = "named as in the structure of 64 bits")]
    pub struct CompatShmInfo {
        pub used_ids: i32,
        pub shm_tot: u32,
        pub shm_rss: u32,
        pub shm_swp: u32,
        pub swap_attempts: u32,
        pub swap_successes: u32,
    }

    /// `struct compat_mq_attr`.
    pub struct CompatMqAttr {
        /// `O_NONBLOCK`.
        pub mq_flags: i32,
        /// Most messages.
        pub mq_maxmsg: i32,
        /// Longest message, bytes.
        pub mq_msgsize: i32,
        /// Messages there are.
        pub mq_curmsgs: i32,
        /// Nothing.
        pub reserved: [u32; 4],
    }

    /// `struct compat_sigevent`.
    pub struct CompatSigevent {
        /// What the signal brings, or where the cookie is.
        pub sigev_value: u32,
        /// The signal, or the socket.
        pub sigev_signo: i32,
        /// `SIGEV_*`.
        pub sigev_notify: i32,
        /// Libc's.
        pub pad: [u32; 13],
    }

    /// `struct old_timespec32`.
    pub struct Timespec32 {
        /// Seconds.
        pub tv_sec: i32,
        /// Nanoseconds below a second.
        pub tv_nsec: i32,
    }
}

const _: () = {
    assert!(size_of::<CompatIpc64Perm>() == 36);
    assert!(size_of::<CompatIpcPerm>() == 16);
    assert!(size_of::<CompatMsqid64Ds>() == 88);
    assert!(size_of::<CompatMsqidDs>() == 56);
    assert!(size_of::<CompatSemid64Ds>() == 64);
    assert!(size_of::<CompatSemidDs>() == 44);
    assert!(size_of::<CompatShmid64Ds>() == 84);
    assert!(size_of::<CompatShmidDs>() == 48);
    assert!(size_of::<CompatShminfo64>() == 36);
    assert!(size_of::<CompatShminfo>() == 20);
    assert!(size_of::<CompatShmInfo>() == 24);
    assert!(size_of::<CompatMqAttr>() == 32);
    assert!(size_of::<CompatSigevent>() == 64);
};

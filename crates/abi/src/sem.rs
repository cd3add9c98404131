//! Semaphores (`<linux/sem.h>`).

use crate::ipc::Ipc64Perm;

/// Undo the operation when the process ends.
pub const SEM_UNDO: i16 = 0x1000;

/// Process of the last operation on a semaphore.
pub const GETPID: i32 = 11;
/// A semaphore's value.
pub const GETVAL: i32 = 12;
/// All values of a set.
pub const GETALL: i32 = 13;
/// How many wait for an increase.
pub const GETNCNT: i32 = 14;
/// How many wait for zero.
pub const GETZCNT: i32 = 15;
/// Set a value.
pub const SETVAL: i32 = 16;
/// Set all values of a set.
pub const SETALL: i32 = 17;
/// `IPC_STAT` by index.
pub const SEM_STAT: i32 = 18;
/// Use of the namespace's resources.
pub const SEM_INFO: i32 = 19;
/// `SEM_STAT` without permission check.
pub const SEM_STAT_ANY: i32 = 20;

/// Default most sets.
pub const SEMMNI: i32 = 32000;
/// Default most semaphores of a set.
pub const SEMMSL: i32 = 32000;
/// Default most semaphores.
pub const SEMMNS: i32 = SEMMNI * SEMMSL;
/// Default most operations of a `semop`.
pub const SEMOPM: i32 = 500;
/// Largest value.
pub const SEMVMX: i32 = 32767;
/// Largest value of an undo adjustment.
pub const SEMAEM: i32 = SEMVMX;
/// Constant of `IPC_INFO`.
pub const SEMUME: i32 = SEMOPM;
/// Constant of `IPC_INFO`.
pub const SEMMNU: i32 = SEMMNS;
/// Constant of `IPC_INFO`.
pub const SEMMAP: i32 = SEMMNS;
/// Constant of `IPC_INFO`.
pub const SEMUSZ: i32 = 20;

crate::plain::plain! {
    /// `struct sembuf`: one operation.
    pub struct SemBuf {
        /// The semaphore's number.
        pub sem_num: u16,
        /// What to add, or 0 to wait for zero.
        pub sem_op: i16,
        /// `IPC_NOWAIT`, [`SEM_UNDO`].
        pub sem_flg: i16,
    }
}
const _: () = assert!(size_of::<SemBuf>() == 6);

crate::plain::plain! {
    /// `struct semid64_ds` of x86-64.
    pub struct Semid64Ds {
        /// Owner, mode and key.
        pub sem_perm: Ipc64Perm,
        /// Seconds of the last `semop`, 0 if none.
        pub sem_otime: i64,
        #[doc(hidden)]
        pub unused1: u64,
        /// Seconds of creation or the last change by `semctl`.
        pub sem_ctime: i64,
        #[doc(hidden)]
        pub unused2: u64,
        /// Semaphores of the set.
        pub sem_nsems: u64,
        #[doc(hidden)]
        pub unused3: [u64; 2],
    }
}
const _: () = assert!(size_of::<Semid64Ds>() == 104);

crate::plain::plain! {
    /// `struct seminfo`.
    pub struct SemInfo {
        /// A constant.
        pub semmap: i32,
        /// Most sets.
        pub semmni: i32,
        /// Most semaphores.
        pub semmns: i32,
        /// A constant.
        pub semmnu: i32,
        /// Most semaphores of a set.
        pub semmsl: i32,
        /// Most operations of a call.
        pub semopm: i32,
        /// A constant.
        pub semume: i32,
        /// `IPC_INFO`: a constant; `SEM_INFO`: sets in use.
        pub semusz: i32,
        /// A constant.
        pub semvmx: i32,
        /// `IPC_INFO`: a constant; `SEM_INFO`: semaphores in use.
        pub semaem: i32,
    }
}
const _: () = assert!(size_of::<SemInfo>() == 40);

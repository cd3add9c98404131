//! What queues, semaphores and segments have in common (`<linux/ipc.h>`).

/// The key that always creates and is never found.
pub const IPC_PRIVATE: i32 = 0;
/// Create if the key does not exist.
pub const IPC_CREAT: i32 = 0o1000;
/// With [`IPC_CREAT`]: fail if the key exists.
pub const IPC_EXCL: i32 = 0o2000;
/// Return an error instead of waiting.
pub const IPC_NOWAIT: i32 = 0o4000;

/// Remove the object.
pub const IPC_RMID: i32 = 0;
/// Change owner, mode (and `msg_qbytes`).
pub const IPC_SET: i32 = 1;
/// Read the object's structure.
pub const IPC_STAT: i32 = 2;
/// Read the namespace's limits.
pub const IPC_INFO: i32 = 3;

/// Of a command of `ipc(2)`: its structure is of the new layout.
pub const IPC_64: i32 = 0x100;

/// Most identifiers of one class in a namespace.
pub const IPCMNI: u32 = 32768;
/// Bits of an identifier that are its index.
pub const IPCMNI_SHIFT: u32 = 15;
/// The index part of an identifier.
pub const IPCMNI_IDX_MASK: u32 = IPCMNI - 1;
/// The least width of the cyclic allocation of indices.
pub const IPC_MIN_CYCLE: u32 = 64;
/// Largest sequence number.
pub const IPCID_SEQ_MAX: u32 = (i32::MAX as u32) >> IPCMNI_SHIFT;

crate::plain::plain! {
    /// `struct ipc64_perm`, as `msgctl`, `semctl` and `shmctl` copy it.
    pub struct Ipc64Perm {
        /// The key, 0 for `IPC_PRIVATE`.
        pub key: i32,
        /// Owner.
        pub uid: u32,
        /// Owner's group.
        pub gid: u32,
        /// Creator.
        pub cuid: u32,
        /// Creator's group.
        pub cgid: u32,
        /// Permission bits.
        pub mode: u32,
        /// The identifier's sequence number.
        pub seq: u16,
        #[doc(hidden)]
        pub pad2: u16,
        #[doc(hidden)]
        pub pad3: u32,
        #[doc(hidden)]
        pub unused: [u64; 2],
    }
}
const _: () = assert!(size_of::<Ipc64Perm>() == 48);

//! Shared memory (`<linux/shm.h>`).

use crate::ipc::Ipc64Perm;

/// `shmget`: huge pages.
pub const SHM_HUGETLB: i32 = 0o4000;
/// `shmget`: no memory is reserved.
pub const SHM_NORESERVE: i32 = 0o10000;
/// `shmget`: where the base-2 logarithm of the size of a huge page stands.
pub const SHM_HUGE_SHIFT: u32 = 26;
/// The logarithm's bits, shifted down.
pub const SHM_HUGE_MASK: i32 = 0x3f;

/// `shmat`: for reading only.
pub const SHM_RDONLY: i32 = 0o10000;
/// `shmat`: round the address down to a multiple of [`SHMLBA`].
pub const SHM_RND: i32 = 0o20000;
/// `shmat`: take the place of what is mapped there.
pub const SHM_REMAP: i32 = 0o40000;
/// `shmat`: for executing too.
pub const SHM_EXEC: i32 = 0o100_000;
/// What addresses of attachments are multiples of, bytes.
pub const SHMLBA: u64 = 4096;

/// Of the mode: destroyed with the last attachment.
pub const SHM_DEST: u32 = 0o1000;
/// Of the mode: locked in memory.
pub const SHM_LOCKED: u32 = 0o2000;

/// Lock in memory.
pub const SHM_LOCK: i32 = 11;
/// Unlock.
pub const SHM_UNLOCK: i32 = 12;
/// `IPC_STAT` by index.
pub const SHM_STAT: i32 = 13;
/// Use of the namespace's resources.
pub const SHM_INFO: i32 = 14;
/// `SHM_STAT` without permission check.
pub const SHM_STAT_ANY: i32 = 15;

/// Default most segments.
pub const SHMMNI: i32 = 4096;
/// Smallest segment, bytes.
pub const SHMMIN: u64 = 1;
/// Default largest segment, bytes.
pub const SHMMAX: u64 = u64::MAX - (1 << 24);
/// Default most pages of all segments.
pub const SHMALL: u64 = SHMMAX;

crate::plain::plain! {
    /// `struct shmid64_ds`.
    pub struct Shmid64Ds {
        /// Owner, mode and key.
        pub shm_perm: Ipc64Perm,
        /// Bytes, as asked for.
        pub shm_segsz: u64,
        /// Seconds of the last `shmat`, 0 if none.
        pub shm_atime: i64,
        /// Seconds of the last `shmdt`, 0 if none.
        pub shm_dtime: i64,
        /// Seconds of creation or the last `IPC_SET`.
        pub shm_ctime: i64,
        /// Process that created it.
        pub shm_cpid: i32,
        /// Process that attached or detached last, 0 if none.
        pub shm_lpid: i32,
        /// Attachments, a mapping each.
        pub shm_nattch: u64,
        #[doc(hidden)]
        pub unused: [u64; 2],
    }
}
const _: () = assert!(size_of::<Shmid64Ds>() == 112);

crate::plain::plain! {
    /// `struct shminfo64`.
    pub struct Shminfo64 {
        /// Largest segment, bytes.
        pub shmmax: u64,
        /// Smallest segment, bytes.
        pub shmmin: u64,
        /// Most segments.
        pub shmmni: u64,
        /// As `shmmni`.
        pub shmseg: u64,
        /// Most pages of all segments.
        pub shmall: u64,
        #[doc(hidden)]
        pub unused: [u64; 4],
    }
}
const _: () = assert!(size_of::<Shminfo64>() == 72);

crate::plain::plain! {
    /// `struct shm_info`.
    pub struct ShmInfo {
        /// Segments in use.
        pub used_ids: i32,
        #[doc(hidden)]
        pub pad: i32,
        /// Pages of all segments.
        pub shm_tot: u64,
        /// Of these, pages in memory.
        pub shm_rss: u64,
        /// Of these, pages swapped out.
        pub shm_swp: u64,
        /// Always 0.
        pub swap_attempts: u64,
        /// Always 0.
        pub swap_successes: u64,
    }
}
const _: () = assert!(size_of::<ShmInfo>() == 48);

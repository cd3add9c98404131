//! What `stat` and its kin tell of a file.

use crate::plain::plain;

plain! {
    /// `struct stat` of x86-64.
    pub struct Stat {
        /// `st_dev`.
        pub dev: u64,
        /// `st_ino`.
        pub ino: u64,
        /// `st_nlink`.
        pub nlink: u64,
        /// `st_mode`.
        pub mode: u32,
        /// `st_uid`.
        pub uid: u32,
        /// `st_gid`.
        pub gid: u32,
        /// Nothing.
        pub pad: u32,
        /// `st_rdev`.
        pub rdev: u64,
        /// `st_size`.
        pub size: u64,
        /// `st_blksize`.
        pub blksize: u64,
        /// `st_blocks`.
        pub blocks: u64,
        /// `st_atim`: seconds, and parts of them.
        pub atime: [u64; 2],
        /// `st_mtim`.
        pub mtime: [u64; 2],
        /// `st_ctim`.
        pub ctime: [u64; 2],
        /// Nothing.
        pub unused: [u64; 3],
    }

    /// `struct stat64` of i386.
    pub struct Stat64 {
        /// `st_dev`, and what lines up the next.
        pub dev: [u32; 2],
        /// Nothing.
        pub pad: u32,
        /// The lower half of `st_ino`.
        pub ino_low: u32,
        /// `st_mode`.
        pub mode: u32,
        /// `st_nlink`.
        pub nlink: u32,
        /// `st_uid`.
        pub uid: u32,
        /// `st_gid`.
        pub gid: u32,
        /// `st_rdev`.
        pub rdev: [u32; 2],
        /// Nothing.
        pub pad_2: u32,
        /// `st_size`, the lower half first.
        pub size: [u32; 2],
        /// `st_blksize`.
        pub blksize: u32,
        /// `st_blocks`.
        pub blocks: [u32; 2],
        /// `st_atim`: seconds, and parts of them.
        pub atime: [u32; 2],
        /// `st_mtim`.
        pub mtime: [u32; 2],
        /// `st_ctim`.
        pub ctime: [u32; 2],
        /// `st_ino`, the lower half first.
        pub ino: [u32; 2],
    }

    /// `struct statx`.
    pub struct Statx {
        /// What is known: `STATX_BASIC_STATS` and the like.
        pub mask: u32,
        /// `stx_blksize`.
        pub blksize: u32,
        /// `stx_attributes`.
        pub attributes: u64,
        /// `stx_nlink`.
        pub nlink: u32,
        /// `stx_uid`.
        pub uid: u32,
        /// `stx_gid`.
        pub gid: u32,
        /// `stx_mode`.
        pub mode: u16,
        /// Nothing.
        pub pad: u16,
        /// `stx_ino`.
        pub ino: u64,
        /// `stx_size`.
        pub size: u64,
        /// `stx_blocks`.
        pub blocks: u64,
        /// `stx_attributes_mask`.
        pub attributes_mask: u64,
        /// `stx_atime`: seconds, and parts of them.
        pub atime: [u64; 2],
        /// `stx_btime`.
        pub btime: [u64; 2],
        /// `stx_ctime`.
        pub ctime: [u64; 2],
        /// `stx_mtime`.
        pub mtime: [u64; 2],
        /// Devices, the mount, and room for more.
        pub rest: [[u64; 4]; 4],
    }
}

const _: () = assert!(size_of::<Stat>() == 144 && size_of::<Stat64>() == 96 && size_of::<Statx>() == 256);

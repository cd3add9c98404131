//! The memory of shared memory segments, which the host owns: as many pages as were touched, the rest are zeros.
//!
//! What users of the module see: [`Segment`]. The machine holds each one as long as the engine needs it, and each area of an address space in which it is
//! mapped does: so how often it is mapped is known at any time.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;

use abi::{
    Errno, Result,
    shm::{SHM_HUGE_MASK, SHM_HUGE_SHIFT, SHM_HUGETLB, SHM_NORESERVE},
};
use arena::Handle;
use engine::{Cred, NewMemory};

use crate::PAGE;
use crate::address_space::{PAGE_U64, split};

/// All the memory that the machine would have.
const TOTAL: u64 = 64 << 30;
/// The sizes of huge pages, as powers of two. It has none to give away.
const HUGE: [i32; 3] = [0, 21, 30];

#[derive(Debug)]
pub(crate) struct Segment {
    bytes: u64,
    pages: RefCell<BTreeMap<u64, Box<[u8; PAGE]>>>,
    /// Nobody can attach it any more.
    retired: Cell<bool>,
    /// Somebody has mapped it for reading only.
    pub(crate) read_only: Cell<bool>,
    /// What it is for, in the arena.
    pub(crate) object: Handle,
    /// The thread that has made it.
    pub(crate) maker: u32,
}

impl Segment {
    /// Whether there can be such memory.
    pub(crate) fn possible(wanted: NewMemory, cred: &Cred, memlock_limit: u64) -> Result<()> {
        let NewMemory { size, flags, .. } = wanted;
        if flags & SHM_HUGETLB != 0 {
            return Err(match flags >> SHM_HUGE_SHIFT & SHM_HUGE_MASK {
                log if !HUGE.contains(&log) => Errno::EINVAL,
                _ if !cred.ipc_lock && size > memlock_limit => Errno::EPERM,
                _ => Errno::ENOMEM,
            });
        }
        if i64::try_from(size).is_err() {
            return Err(Errno::EINVAL);
        }
        if size > TOTAL && flags & SHM_NORESERVE == 0 { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    pub(crate) fn new(size: u64, object: Handle, maker: u32) -> Segment {
        let bytes = size.next_multiple_of(PAGE_U64);
        Segment {
            bytes,
            pages: RefCell::default(),
            retired: Cell::default(),
            read_only: Cell::default(),
            object,
            maker,
        }
    }

    /// Its size in whole pages.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pages that were touched.
    pub(crate) fn resident(&self) -> u64 {
        self.pages.borrow().len() as u64
    }

    /// In how many areas it is mapped. One more holds it: the machine.
    pub(crate) fn mappings(self: &Rc<Segment>) -> u64 {
        Rc::strong_count(self) as u64 - 1
    }

    /// See [`engine::Backing::retire_memory`].
    pub(crate) fn retire(self: &Rc<Segment>, read_only: Option<i32>) -> bool {
        // Elsewhere such mappings are looked for only if the engine says so.
        assert!(read_only.is_some() || !self.read_only.get(), "somebody may have it mapped for reading only");
        let unmapped = self.mappings() == 0;
        self.retired.set(self.retired.get() || unmapped);
        unmapped
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Reads bytes of one page.
    pub(crate) fn read(&self, at: u64, to: &mut [u8]) {
        let (page, within) = split(at);
        to.copy_from_slice(&self.touch(page)[within..within + to.len()]);
    }

    /// Writes bytes of one page.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        let (page, within) = split(at);
        self.touch(page)[within..within + bytes.len()].copy_from_slice(bytes);
    }

    /// A page is there from when it was first read or written.
    fn touch(&self, page: u64) -> RefMut<'_, [u8; PAGE]> {
        RefMut::map(self.pages.borrow_mut(), |pages| {
            &mut **pages.entry(page).or_insert_with(|| Box::new([0; PAGE]))
        })
    }
}

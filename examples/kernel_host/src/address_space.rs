//! A simulated address space, in which a wrong address is wrong.

use std::collections::HashMap;
use std::rc::Rc;

use abi::{Errno, Result};

use crate::Memory;

/// Bytes of a page, the unit of access.
pub const PAGE: usize = 4096;
const PAGE_U64: u64 = PAGE as u64;

/// What a program may do with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
}

/// Pages that a program has mapped. Pages that nobody has written take no room, and a fork shares the others until
/// either side writes.
#[derive(Debug, Clone, Default)]
pub struct AddressSpace {
    areas: Vec<Area>,
    pages: HashMap<u64, Rc<[u8; PAGE]>>,
}

#[derive(Debug, Clone, Copy)]
struct Area {
    start: u64,
    end: u64,
    access: Access,
}

impl AddressSpace {
    /// Maps whole pages of zeros.
    ///
    /// # Panics
    /// If they are no whole pages, or mapped already.
    pub fn map(&mut self, start: u64, bytes: u64, access: Access) {
        let end = start + bytes;
        assert!(start.is_multiple_of(PAGE_U64) && bytes.is_multiple_of(PAGE_U64), "whole pages");
        assert!(self.areas.iter().all(|area| end <= area.start || area.end <= start), "mapped already");
        self.areas.push(Area { start, end, access });
    }

    /// Writes whatever the access is, as the program itself does before it takes its own right to write away.
    ///
    /// # Errors
    /// `EFAULT` where nothing is mapped.
    pub fn fill(&mut self, to: u64, bytes: &[u8]) -> Result<()> {
        self.store(to, bytes, |_| true)
    }

    fn access(&self, at: u64) -> Option<Access> {
        self.areas.iter().find(|area| (area.start..area.end).contains(&at)).map(|area| area.access)
    }

    fn store(&mut self, to: u64, mut bytes: &[u8], allowed: impl Fn(Access) -> bool) -> Result<()> {
        let mut at = to;
        while !bytes.is_empty() {
            self.access(at).filter(|access| allowed(*access)).ok_or(Errno::EFAULT)?;
            let (page, within) = split(at);
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE - within));
            let page = Rc::make_mut(self.pages.entry(page).or_insert_with(|| Rc::new([0; PAGE])));
            page[within..within + now.len()].copy_from_slice(now);
            at = at.wrapping_add(now.len() as u64);
            bytes = rest;
        }
        Ok(())
    }
}

/// Number of the page, and place in it.
fn split(at: u64) -> (u64, usize) {
    (at / PAGE_U64, (at % PAGE_U64) as usize)
}

impl Memory for AddressSpace {
    fn read(&self, from: u64, mut to: &mut [u8]) -> Result<()> {
        let mut at = from;
        while !to.is_empty() {
            self.access(at).ok_or(Errno::EFAULT)?;
            let (page, within) = split(at);
            let (now, rest) = to.split_at_mut(to.len().min(PAGE - within));
            match self.pages.get(&page) {
                Some(page) => now.copy_from_slice(&page[within..within + now.len()]),
                None => now.fill(0),
            }
            at = at.wrapping_add(now.len() as u64);
            to = rest;
        }
        Ok(())
    }

    fn write(&mut self, to: u64, bytes: &[u8]) -> Result<()> {
        self.store(to, bytes, |access| access == Access::ReadWrite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_pages() -> AddressSpace {
        let mut space = AddressSpace::default();
        space.map(0x1000, 0x1000, Access::ReadWrite);
        space.map(0x2000, 0x1000, Access::Read);
        space.map(0x4000, 0x1000, Access::ReadWrite);
        space
    }

    #[test]
    fn a_copy_over_an_edge_goes_as_far_as_it_may() {
        let mut space = three_pages();
        assert_eq!(space.write(0x1ffe, b"abcd"), Err(Errno::EFAULT), "the second page is read-only");
        let mut seen = [9; 4];
        assert_eq!(space.read(0x1ffe, &mut seen), Ok(()));
        assert_eq!(&seen, b"ab\0\0");
        assert_eq!(space.read(0x2ffe, &mut seen), Err(Errno::EFAULT), "behind it is nothing");
    }

    #[test]
    fn nothing_is_at_the_ends_of_the_world() {
        let mut space = three_pages();
        for at in [0, 0xfff, 0x3000, u64::MAX - 3, u64::MAX] {
            assert_eq!(space.read(at, &mut [0; 8]), Err(Errno::EFAULT), "{at:#x}");
            assert_eq!(space.write(at, &[0; 8]), Err(Errno::EFAULT), "{at:#x}");
        }
    }

    #[test]
    fn a_fork_sees_nothing_of_what_comes_later() {
        let mut parent = three_pages();
        parent.write(0x1000, b"old").unwrap();
        let mut child = parent.clone();
        parent.write(0x1000, b"new").unwrap();
        child.write(0x4000, b"own").unwrap();
        let read = |space: &AddressSpace, at| {
            let mut bytes = [0; 3];
            space.read(at, &mut bytes).map(|()| bytes)
        };
        assert_eq!((read(&parent, 0x1000), read(&child, 0x1000)), (Ok(*b"new"), Ok(*b"old")));
        assert_eq!((read(&parent, 0x4000), read(&child, 0x4000)), (Ok([0; 3]), Ok(*b"own")));
    }
}

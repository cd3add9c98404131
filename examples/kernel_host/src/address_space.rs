//! A simulated address space, in which a wrong address is wrong, and segments can be attached.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use abi::{Errno, Result};
use engine::{MapPlace, MapRequest};

use crate::Memory;
use crate::segment::Segment;

/// Bytes of a page, the unit of access.
pub const PAGE: usize = 4096;
pub(crate) const PAGE_U64: u64 = PAGE as u64;
/// From where on segments go whose place is left to the system.
pub const ANYWHERE: u64 = 0x1000_0000_0000;
/// The end of a process's addresses.
const TASK_SIZE: u64 = 1 << 47;

/// What a program may do with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
}

/// Pages that a program has mapped. Pages that nobody has written take no room. A fork shares segments; of all else it has a copy, which takes room when
/// either side writes.
#[derive(Debug, Clone, Default)]
pub struct AddressSpace {
    /// By their starts.
    areas: BTreeMap<u64, Area>,
    /// What is written of areas that are no segment's.
    pages: HashMap<u64, Rc<[u8; PAGE]>>,
    /// How many areas are left of each attachment.
    pieces: HashMap<u64, u32>,
    attachments: u64,
    /// Behind all that was ever attached.
    next: u64,
}

#[derive(Debug, Clone)]
struct Area {
    end: u64,
    access: Access,
    /// The program's own memory if it is none of a segment.
    attached: Option<Attached>,
}

/// A piece of a segment, or all of it.
#[derive(Debug, Clone)]
struct Attached {
    segment: Rc<Segment>,
    id: i32,
    /// Which attachment it is a piece of. 0 if it was left over, by having been moved away, when that was detached.
    attachment: u64,
    /// From the segment's start to the area's.
    offset: u64,
    /// Whether it may be written, now or ever.
    write: bool,
}

/// An area of a segment that is gone, and whether it was the last one of its attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) id: i32,
    pub(crate) whole: bool,
}

impl AddressSpace {
    /// Maps whole pages of zeros.
    ///
    /// # Panics
    /// If they are no whole pages, or mapped already.
    pub fn map(&mut self, start: u64, bytes: u64, access: Access) {
        let end = start + bytes;
        assert!(start.is_multiple_of(PAGE_U64) && bytes.is_multiple_of(PAGE_U64), "whole pages");
        assert!(self.is_free(start, end), "mapped already");
        self.insert(start, Area { end, access, attached: None });
    }

    /// Writes whatever the access is, as the program itself does before it takes its own right to write away.
    ///
    /// # Errors
    /// `EFAULT` where nothing is mapped.
    pub fn fill(&mut self, to: u64, bytes: &[u8]) -> Result<()> {
        self.store(to, bytes, |_| true)
    }

    /// Changes what the program may do with whole pages, as mprotect(2).
    ///
    /// # Errors
    /// `EACCES` for writing to what was attached for reading; `ENOMEM` where nothing is mapped.
    pub fn protect(&mut self, start: u64, bytes: u64, access: Access) -> Result<()> {
        let end = start + bytes;
        let areas = self.overlapping(start, end);
        let sum: u64 = areas.iter().map(|at| self.areas[at].end.min(end) - (*at).max(start)).sum();
        if sum != bytes {
            return Err(Errno::ENOMEM);
        }
        let refuses = |area: &Area| area.attached.as_ref().is_some_and(|attached| !attached.write);
        if access == Access::ReadWrite && areas.iter().any(|at| refuses(&self.areas[at])) {
            return Err(Errno::EACCES);
        }
        self.cut(start);
        self.cut(end);
        self.areas.range_mut(start..end).for_each(|(_, area)| area.access = access);
        Ok(())
    }

    /// Moves a piece of an attachment, as mremap(2), to where nothing is.
    ///
    /// # Panics
    /// If it is none, or something is there.
    pub fn relocate(&mut self, from: u64, bytes: u64, to: u64) {
        assert!(self.is_free(to, to + bytes), "something is there");
        self.cut(from);
        self.cut(from + bytes);
        let mut area = self.remove(from);
        assert!(area.attached.is_some() && area.end == from + bytes, "a piece of an attachment");
        area.end = to + bytes;
        self.insert(to, area);
    }

    /// Where nothing is for so many bytes.
    ///
    /// # Errors
    /// `ENOMEM` if there is no such place.
    pub fn room(&self, bytes: u64) -> Result<u64> {
        let fits = |at: u64| {
            let end = at.checked_add(bytes)?.checked_next_multiple_of(PAGE_U64)?;
            (end <= TASK_SIZE && self.is_free(at, end)).then_some(at)
        };
        let behind = self.areas.range(ANYWHERE..).map(|(_, area)| area.end);
        [self.next.max(ANYWHERE), ANYWHERE].into_iter().chain(behind).find_map(fits).ok_or(Errno::ENOMEM)
    }

    /// Attaches a segment. What was in its place goes to `gone`.
    pub(crate) fn attach(
        &mut self,
        segment: &Rc<Segment>,
        wanted: &MapRequest,
        gone: &mut Vec<Gone>,
    ) -> Result<u64> {
        let bytes = segment.bytes();
        let end_of = |at: u64| at.checked_add(bytes).ok_or(Errno::ENOMEM);
        let at = match wanted.place {
            MapPlace::Anywhere => self.room(bytes)?,
            MapPlace::Free(at) if !self.is_free(at, end_of(at)?) => return Err(Errno::EINVAL),
            MapPlace::Free(at) | MapPlace::Over(at) if end_of(at)? > TASK_SIZE => return Err(Errno::ENOMEM),
            MapPlace::Free(at) => at,
            MapPlace::Over(at) => {
                self.unmap(at, bytes, gone);
                at
            }
        };
        self.attachments += 1;
        let attached = Attached {
            segment: Rc::clone(segment),
            id: wanted.id,
            attachment: self.attachments,
            offset: 0,
            write: wanted.write,
        };
        let access = if wanted.write { Access::ReadWrite } else { Access::Read };
        self.insert(at, Area { end: at + bytes, access, attached: Some(attached) });
        Ok(at)
    }

    /// Unmaps what is left at its place of the attachment at an address, as shmdt(2); returns the segment's identifier.
    pub(crate) fn detach(&mut self, addr: u64) -> Result<i32> {
        let begins_here = |start: u64, attached: &Attached| start.checked_sub(attached.offset) == Some(addr);
        let first = self.areas.range(addr..).find_map(|(start, area)| {
            area.attached.as_ref().filter(|attached| begins_here(*start, attached)).cloned()
        });
        let Attached { segment, id, attachment, .. } = first.ok_or(Errno::EINVAL)?;
        let is_of_it = |start: u64, area: &Area| {
            let attached = area.attached.as_ref();
            attached.is_some_and(|attached| {
                Rc::ptr_eq(&attached.segment, &segment) && begins_here(start, attached)
            })
        };
        let pieces: Vec<u64> = self
            .areas
            .range(addr..addr + segment.bytes())
            .filter(|(start, area)| is_of_it(**start, area))
            .map(|(start, _)| *start)
            .collect();
        for start in pieces {
            self.remove(start);
        }
        if self.pieces.remove(&attachment).is_some() {
            let rest = self.areas.values_mut().filter_map(|area| area.attached.as_mut());
            rest.filter(|attached| attached.attachment == attachment).for_each(|moved| moved.attachment = 0);
        }
        Ok(id)
    }

    /// Unmaps whole pages, whatever is there. The segments of which a piece was there go to `gone`.
    pub(crate) fn unmap(&mut self, start: u64, bytes: u64, gone: &mut Vec<Gone>) {
        let end = start + bytes;
        self.cut(start);
        self.cut(end);
        let areas: Vec<u64> = self.areas.range(start..end).map(|(at, _)| *at).collect();
        for at in areas {
            let area = self.remove(at);
            match area.attached {
                Some(Attached { id, attachment, .. }) => {
                    gone.push(Gone { id, whole: attachment != 0 && !self.pieces.contains_key(&attachment) });
                }
                None => self.pages.retain(|page, _| !(at..area.end).contains(&(page * PAGE_U64))),
            }
        }
    }

    /// Unmaps all segments, whose process has ended.
    pub(crate) fn detach_all(&mut self) {
        self.areas.retain(|_, area| area.attached.is_none());
        self.pieces.clear();
    }

    /// The segments' identifiers, one for each attachment.
    pub(crate) fn attached(&self) -> Vec<i32> {
        let attached = self.areas.values().filter_map(|area| area.attached.as_ref());
        let by_attachment: BTreeMap<u64, i32> =
            attached.filter(|one| one.attachment != 0).map(|one| (one.attachment, one.id)).collect();
        by_attachment.into_values().collect()
    }

    fn insert(&mut self, start: u64, area: Area) {
        if let Some(Attached { attachment, .. }) = area.attached {
            self.next = self.next.max(area.end);
            if attachment != 0 {
                *self.pieces.entry(attachment).or_default() += 1;
            }
        }
        self.areas.insert(start, area);
    }

    fn remove(&mut self, start: u64) -> Area {
        let area = self.areas.remove(&start).expect("an area");
        if let Some(Attached { attachment, .. }) = area.attached
            && let Some(left) = self.pieces.get_mut(&attachment)
        {
            *left -= 1;
            if *left == 0 {
                self.pieces.remove(&attachment);
            }
        }
        area
    }

    /// Makes an area end where `at` is in its middle, and another begin.
    fn cut(&mut self, at: u64) {
        let Some(start) = self.area_at(at).map(|(start, _)| start).filter(|start| *start != at) else {
            return;
        };
        let mut first = self.remove(start);
        let mut second = first.clone();
        first.end = at;
        if let Some(attached) = &mut second.attached {
            attached.offset += at - start;
        }
        self.insert(start, first);
        self.insert(at, second);
    }

    fn area_at(&self, at: u64) -> Option<(u64, &Area)> {
        let (start, area) = self.areas.range(..=at).next_back()?;
        (at < area.end).then_some((*start, area))
    }

    /// The starts of the areas that have something between these addresses.
    fn overlapping(&self, start: u64, end: u64) -> Vec<u64> {
        let first = self.area_at(start).map(|(at, _)| at).filter(|at| *at != start);
        first.into_iter().chain(self.areas.range(start..end).map(|(at, _)| *at)).collect()
    }

    fn is_free(&self, start: u64, end: u64) -> bool {
        self.area_at(start).is_none() && self.areas.range(start..end).next().is_none()
    }

    fn store(&mut self, to: u64, mut bytes: &[u8], allowed: impl Fn(Access) -> bool) -> Result<()> {
        let mut at = to;
        while !bytes.is_empty() {
            let (page, within) = split(at);
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE - within));
            let (start, area) =
                self.area_at(at).filter(|(_, area)| allowed(area.access)).ok_or(Errno::EFAULT)?;
            match &area.attached {
                Some(attached) => attached.segment.write(attached.offset + (at - start), now),
                None => {
                    let page = Rc::make_mut(self.pages.entry(page).or_insert_with(|| Rc::new([0; PAGE])));
                    page[within..within + now.len()].copy_from_slice(now);
                }
            }
            at = at.wrapping_add(now.len() as u64);
            bytes = rest;
        }
        Ok(())
    }
}

/// Number of the page, and place in it.
pub(crate) fn split(at: u64) -> (u64, usize) {
    (at / PAGE_U64, (at % PAGE_U64) as usize)
}

impl Memory for AddressSpace {
    fn read(&self, from: u64, mut to: &mut [u8]) -> Result<()> {
        let mut at = from;
        while !to.is_empty() {
            let (start, area) = self.area_at(at).ok_or(Errno::EFAULT)?;
            let (page, within) = split(at);
            let (now, rest) = to.split_at_mut(to.len().min(PAGE - within));
            match (&area.attached, self.pages.get(&page)) {
                (Some(attached), _) => attached.segment.read(attached.offset + (at - start), now),
                (None, Some(page)) => now.copy_from_slice(&page[within..within + now.len()]),
                (None, None) => now.fill(0),
            }
            at = at.wrapping_add(now.len() as u64);
            to = rest;
        }
        Ok(())
    }

    fn write(&mut self, to: u64, bytes: &[u8]) -> Result<()> {
        self.store(to, bytes, |access| access == Access::ReadWrite)
    }

    fn space(&mut self) -> &mut AddressSpace {
        self
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

//! A shared library for 32-bit x86 that does nothing: what the loader of 32-bit programs is given where that of others loads the preload library. It
//! would complain of that one at each start.
//!
//! The least that a loader takes: one segment, which holds everything, a table of symbols without any, and a stack that need not be executable.

/// The name of the preload library's file.
pub const PRELOAD: &str = "libipcspace_preload.so";

const HEADER: u32 = 52;
const PROGRAM_HEADER: u32 = 32;
/// Where the tables begin, and the sizes of what is in them.
const TABLES: u32 = HEADER + 3 * PROGRAM_HEADER;
const HASH: u32 = TABLES;
const SYMBOLS: u32 = HASH + 4 * 4;
const STRINGS: u32 = SYMBOLS + 4 * 4;
const DYNAMIC: u32 = STRINGS + 4;
const DYNAMIC_SIZE: u32 = 6 * 8;
const END: u32 = DYNAMIC + DYNAMIC_SIZE;

/// Whether a path is the preload library's.
pub(crate) fn stands_for(path: &[u8]) -> bool {
    path.starts_with(b"/") && path.rsplit(|byte| *byte == b'/').next() == Some(PRELOAD.as_bytes())
}

/// The file's bytes.
pub fn library() -> Vec<u8> {
    const READ_WRITE: u32 = 6;
    let words: [&[u32]; 9] = [
        // e_ident: 32 bits, little end first, version 1, System V; the padding.
        &[u32::from_le_bytes(*b"\x7fELF"), 0x0001_0101, 0, 0],
        // ET_DYN for EM_386, version, no entry, program headers behind this one, no sections, no flags; sizes and counts in halves.
        &[3 | 3 << 16, 1, 0, HEADER, 0, 0, HEADER | PROGRAM_HEADER << 16, 3, 0],
        // PT_LOAD: the whole file. Loaders write to the dynamic section.
        &[1, 0, 0, 0, END, END, READ_WRITE, 0x1000],
        // PT_DYNAMIC.
        &[2, DYNAMIC, DYNAMIC, DYNAMIC, DYNAMIC_SIZE, DYNAMIC_SIZE, READ_WRITE, 4],
        // PT_GNU_STACK.
        &[0x6474_e551, 0, 0, 0, 0, 0, READ_WRITE, 16],
        // The hash table: one bucket, one chain, both of the symbol 0, which ends a chain.
        &[1, 1, 0, 0],
        &[0; 4],
        // The strings: an empty one.
        &[0],
        // DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_NULL.
        &[4, HASH, 5, STRINGS, 6, SYMBOLS, 10, 1, 11, 16, 0, 0],
    ];
    words.concat().into_iter().flat_map(u32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_its_places_is_so() {
        let library = library();
        assert_eq!(library.len(), END as usize);
        let word = |at: u32| u32::from_le_bytes(library[at as usize..][..4].try_into().unwrap());
        assert_eq!((word(HASH), word(SYMBOLS), word(DYNAMIC), word(END - 8)), (1, 0, 4, 0));
    }
}

//! Structures of plain numbers, which a door may copy byte by byte.

mod sealed {
    pub trait Sealed {}
}

/// A type of plain numbers without padding, of which any bytes are a value. Only this crate has such types: its macro
/// has checked them, and whoever copies them relies on it.
pub trait Plain: Copy + Default + sealed::Sealed {}

macro_rules! numbers {
    ($($ty:ty),*) => { $(impl sealed::Sealed for $ty {} impl Plain for $ty {})* };
}
numbers!(
    i16,
    u16,
    i32,
    u32,
    i64,
    u64,
    [u32; 2],
    [u32; 4],
    [u32; 13],
    [u64; 2],
    [u64; 3],
    [u64; 4],
    [[u64; 4]; 4]
);

/// Declares structures of Linux's layout that are [`Plain`]: each field is, and there is nothing between them.
macro_rules! plain {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident : $ty:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
            const _: () = {
                const fn is_plain<T: $crate::Plain>() -> usize { size_of::<T>() }
                assert!(size_of::<$name>() == 0 $(+ is_plain::<$ty>())*, "padding");
            };
            impl $crate::plain::Sealed for $name {}
            impl $crate::Plain for $name {}
        )*
    };
}
pub(crate) use plain;
pub(crate) use sealed::Sealed;

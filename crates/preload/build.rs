//! An undefined symbol must fail the build, not every program that loads the library; and all calls of our own stay
//! our own.
//!
//! The library is not linked with this machine's libc but with an empty one of the same name. So what it imports has no version: it
//! loads with an older glibc than the one here, and with musl, whose loader takes `libc.so.6` for itself. And the list below is all
//! that it can import.

use std::env;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What both libcs have; behind the line, what is weak in the library because one of them has it not, or an old one elsewhere.
const IMPORTS: &str = "
    __errno_location bcmp clock_gettime fdopen fileno getenv memcpy memmove memset sched_getcpu setenv strlen time
    ---
    dlsym __libc_dlopen_mode __libc_dlsym __register_atfork pthread_atfork
    pthread_create pthread_detach pthread_self
    pthread_setcanceltype pthread_testcancel _pthread_cleanup_push _pthread_cleanup_pop
";

fn main() {
    let directory = env::var("OUT_DIR").expect("Cargo sets OUT_DIR");
    let libc = Path::new(&directory).join("libc.so");
    make_libc(&libc);
    let arguments = [
        "-nostartfiles",
        "-Wl,-z,defs",
        "-Wl,-z,now",
        "-Wl,-Bsymbolic",
        "-Wl,-soname,libipcspace_preload.so",
    ];
    // Each segment costs whoever starts a program some 13 µs: one to execute and one to write are enough. What relocation
    // alone writes lies beside tables of functions that are written all the time, so protecting it would protect nothing.
    let segments = ["-Wl,-z,norelro", "-Wl,--no-rosegment"];
    let segments = if links_by_lld() { &segments[..] } else { &segments[..1] };
    for argument in arguments.iter().chain(segments).copied().chain([libc.to_str().expect("a path in UTF-8")])
    {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CC");
}

/// Whether the linker is the one that rustc brings: others need not know its options.
fn links_by_lld() -> bool {
    let is_named = |flags: String| flags.contains("linker");
    env::var_os("RUSTC_LINKER").is_none() && !env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(is_named)
}

/// A libc of nothing but names.
fn make_libc(to: &Path) {
    let names = IMPORTS.split_whitespace().filter(|name| *name != "---");
    let labels: String =
        names.map(|name| format!(".globl {name}\n.type {name}, @function\n{name}:\n")).collect();
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut cc = Command::new(&compiler)
        .args(["-shared", "-nostdlib", "-Wl,-soname,libc.so.6", "-x", "assembler", "-", "-o"])
        .arg(to)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", compiler.display()));
    let source = format!(".text\n{labels}ret\n.section .note.GNU-stack,\"\",@progbits\n");
    cc.stdin.take().expect("a pipe").write_all(source.as_bytes()).expect("the assembler reads");
    assert!(cc.wait().is_ok_and(|status| status.success()), "{} makes no library", compiler.display());
}

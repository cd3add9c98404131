//! Each Rust file says at its head what it is; `unsafe` stays where it is looked after.

use proc_macro2::{LexError, TokenStream, TokenTree};

/// Files, or the beginnings of their names, that may say `unsafe`, and why.
const UNSAFE: &[&str] = &[
    // System calls.
    "crates/sys/",
    // Shared memory.
    "crates/arena/",
    "crates/client/src/attach.rs",
    "crates/client/src/attachments.rs",
    "crates/client/src/cancel.rs",
    "crates/client/src/host.rs",
    "crates/client/src/leave.rs",
    "crates/client/src/memory.rs",
    "crates/client/src/notify.rs",
    "crates/client/src/signal.rs",
    "crates/client/src/stranger.rs",
    "crates/client/src/tls.rs",
    "crates/client/src/vfork.rs",
    // Structures of the kernel's, and what is on behalf of others.
    "crates/client/src/behalf.rs",
    "crates/trap/src/filter.rs",
    "crates/trap/src/notify.rs",
    "crates/trap/src/process.rs",
    "crates/trap/src/routes.rs",
    "crates/trap/src/target.rs",
    "crates/trap/src/trace.rs",
    // The C ABI.
    "crates/preload/",
    "crates/libipcspace/",
    "crates/broker/src/sysv.rs",
    "crates/broker/src/door.rs",
    "crates/ipcspace/src/backend.rs",
    // Processes and descriptors.
    "crates/broker/src/caller.rs",
    "crates/broker/src/detached.rs",
    "crates/broker/src/segments.rs",
    "crates/broker/src/serve.rs",
    "crates/broker/src/service.rs",
    "crates/broker/src/store.rs",
    "crates/broker/src/strangers.rs",
    "crates/broker/src/supervise",
    "crates/broker/src/locked.rs",
    "crates/broker/src/stopped.rs",
    "crates/views/src/lib.rs",
    "crates/views/src/mount.rs",
    "crates/views/src/queue.rs",
    "crates/views/src/unseen.rs",
    // Shared memory as a reference.
    "crates/ipcspace/src/shared.rs",
    // Tests play the unmodified C program.
    "crates/cli/tests/",
    // Processes are forked where they are shown.
    "crates/ipcspace/tests/",
    "crates/ipcspace/examples/",
    "testing/",
    "examples/kernel_host/src/cpu.rs",
    "examples/kernel_host/src/run.rs",
];
/// Crates that have the compiler see to it as well.
const FORBIDDING: &[&str] = &["crates/abi/src/lib.rs", "crates/engine/src/lib.rs", "crates/cli/src/main.rs"];

/// What breaks the rules in a Rust file.
pub(super) fn check(name: &str, text: &str) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut broken = Vec::new();
    if !text.starts_with("//!") {
        broken.push(format!("{name}:1: no head (//!)"));
    }
    if FORBIDDING.contains(&name) && !text.lines().any(|line| line == "#![forbid(unsafe_code)]") {
        broken.push(format!("{name}: no #![forbid(unsafe_code)]"));
    }
    if !UNSAFE.iter().any(|start| name.starts_with(start)) {
        let lines = unsafe_lines(text).map_err(|error| format!("{name}: {error}"))?;
        broken.extend(lines.iter().map(|line| format!("{name}:{line}: unsafe has no place here")));
    }
    Ok(broken)
}

/// The lines with the keyword, which comments and strings cannot have.
fn unsafe_lines(text: &str) -> Result<Vec<usize>, LexError> {
    fn collect(tokens: TokenStream, lines: &mut Vec<usize>) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => collect(group.stream(), lines),
                TokenTree::Ident(word) if word == "unsafe" => lines.push(word.span().start().line),
                _ => {}
            }
        }
    }
    let mut lines = Vec::new();
    collect(text.parse()?, &mut lines);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_found_where_it_has_no_place() {
        let text = "//! Head.\nfn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(check("crates/client/src/wire.rs", text).unwrap().len(), 1);
        assert_eq!(check("crates/client/src/tls.rs", text).unwrap(), Vec::<String>::new());
        assert_eq!(unsafe_lines(text).unwrap(), [3]);
    }

    #[test]
    fn the_word_in_comments_and_strings_is_not_meant() {
        let text = "//! unsafe\n// unsafe\n#![forbid(unsafe_code)]\nconst A: &str = \"unsafe\";\n";
        assert_eq!(unsafe_lines(text).unwrap(), [0; 0]);
    }

    #[test]
    fn a_file_without_a_head_is_found() {
        assert_eq!(check("crates/client/src/wire.rs", "// Something.\n").unwrap().len(), 1);
    }

    #[test]
    fn an_engine_that_no_longer_forbids_is_found() {
        assert_eq!(check("crates/engine/src/lib.rs", "//! Head.\n").unwrap().len(), 1);
    }
}

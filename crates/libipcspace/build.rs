//! The name by which programs find the shared library when they start: changes with its interface.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libipcspace.so.0");
    println!("cargo::rerun-if-changed=build.rs");
}

//! An undefined symbol must fail the build, not every program that loads the library; and all calls of our own stay
//! our own.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,defs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libipcspace_preload.so");
    println!("cargo:rustc-cdylib-link-arg=-lc");
    println!("cargo:rerun-if-changed=build.rs");
}

//! Builds the C++ part of the peers, where they are wanted.

fn main() {
    println!("cargo::rerun-if-changed=src/peers/boost.cpp");
    #[cfg(feature = "peers")]
    cc::Build::new().cpp(true).std("c++17").warnings(false).file("src/peers/boost.cpp").compile("peers");
}

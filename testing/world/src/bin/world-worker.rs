//! Nothing but a worker: for the tests of this crate.

fn main() {
    world::run_worker_if_asked();
    eprintln!("world-worker: started by a test of the crate `world` only");
    std::process::exit(2);
}

//! A program that is moved from the kernel's queues to its own by one line.
//!
//! With the argument `kernel` its objects are the kernel's, which `ipcs` shows and everybody on the machine shares; else those of a namespace that ends with it. All the rest is
//! the same, errors and limits too, but for who may raise a limit: of its own namespace, an ordinary user.
//!
//! Run it with `cargo run -p ipcspace --example from_the_kernel [kernel]`.

use std::time::Duration;

use ipcspace::{Key, Limit, MsgType, Namespace, Result, Select};

fn main() -> Result<()> {
    let is_kernel = std::env::args().nth(1).as_deref() == Some("kernel");
    // The one line.
    let ns = if is_kernel { Namespace::kernel() } else { Namespace::private()? };

    let requests = ns.queue(Key::PRIVATE).mode(0o600).open()?;
    let answers = ns.queue(Key::PRIVATE).mode(0o600).open()?;
    println!("messages of up to {} bytes, in queue {}", ns.limit(Limit::MsgMax)?, requests.id());
    // SAFETY: the child answers one request and ends.
    if unsafe { libc::fork() } == 0 {
        let mut text = [0; 64];
        let got = requests.recv(Select::Any, &mut text)?;
        text[..got.len].make_ascii_uppercase();
        answers.send(got.kind, &text[..got.len])?;
        std::process::exit(0);
    }
    requests.send(MsgType::new(42)?, b"hello")?;
    let mut text = [0; 64];
    let got = answers.recv_timeout(Select::Exactly(MsgType::new(42)?), &mut text, Duration::from_secs(10))?;
    println!("{}", String::from_utf8_lossy(&text[..got.len]));
    assert_eq!(&text[..got.len], b"HELLO");
    // The kernel keeps what nobody removes.
    requests.remove()?;
    answers.remove()
}

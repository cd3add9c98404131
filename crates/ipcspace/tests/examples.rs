//! Each example runs to a good end, and says what it is to say.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What an example prints.
fn run(example: &str, arguments: &[&str]) -> String {
    // Cargo builds them beside the tests.
    let directory = std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples");
    let path: PathBuf = directory.join(example);
    let output = Command::new(&path)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(output.status.success(), "{example} ended with {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn job_queue() {
    let said = run("job_queue", &[]);
    assert_eq!(said.matches("worker ").count(), 4, "{said}");
    assert!(said.ends_with("all done: 0 messages left\n"), "{said}");
}

#[test]
fn crash_safe_lock() {
    let said = run("crash_safe_lock", &[]);
    assert!(said.contains("change 2 was not finished"), "{said}");
    assert!(said.ends_with("2 changes, all of them finished: 2\n"), "{said}");
}

#[test]
fn sensor_ring() {
    let said = run("sensor_ring", &[]);
    assert_eq!(said.lines().filter(|line| line.starts_with("read ")).count(), 2, "{said}");
}

#[test]
fn from_the_kernel() {
    for place in [&[][..], &["kernel"]] {
        let said = run("from_the_kernel", place);
        assert!(said.starts_with("messages of up to 8192 bytes") && said.ends_with("HELLO\n"), "{said}");
    }
}

#[cfg(feature = "tokio")]
#[test]
fn async_consumer() {
    assert!(run("async_consumer", &[]).ends_with("100 jobs\n"));
}

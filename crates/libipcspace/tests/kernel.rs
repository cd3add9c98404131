//! The library as it is installed: a C program that was written for the kernel says the same with it, built unchanged and without a warning.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// Where the library is installed, which the first test does.
fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libipcspace");
        let mut install = Command::new(env!("CARGO"));
        install.args(["run", "--quiet", "--package", "xtask", "--", "library"]).arg(&prefix);
        assert!(install.env_remove("DESTDIR").status().unwrap().success(), "the library can't be installed");
        prefix
    })
}

/// What pkg-config says, if it is there; else what it would.
fn flags(package: &str) -> Vec<String> {
    let prefix = prefix().display();
    let mut ask = Command::new("pkg-config");
    ask.args(["--cflags", "--libs", package]).env("PKG_CONFIG_PATH", format!("{prefix}/lib/pkgconfig"));
    let said = match ask.output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        }
        Err(_) => {
            let names = format!("-include {prefix}/include/ipcspace/names.h");
            let names = if package == "ipcspace-names" { names.as_str() } else { "" };
            format!("-I{prefix}/include {names} -L{prefix}/lib -lipcspace")
        }
    };
    said.split_whitespace().map(str::to_owned).collect()
}

fn compile(name: &str, source: &Path, more: &[String]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut cc = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-O2", "-pthread", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source).args(more);
    assert!(cc.status().unwrap().success(), "{cc:?}");
    program
}

/// What a program says, in a new IPC namespace of the kernel's where one may have that.
fn run(program: &Path, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", prefix().join("lib")).envs(variables.iter().copied());
    // SAFETY: a system call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::unshare(libc::CLONE_NEWIPC);
            Ok(())
        });
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}: {}\n{said}", program.display(), output.status);
    said
}

/// Builds a program for the kernel, with the shared and with the static library; the last two say what the first says, which is given back.
fn say_the_same(name: &str) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name).with_extension("c");
    let mut whole = flags("ipcspace-names");
    whole.retain(|flag| flag != "-lipcspace");
    whole.push(format!("{}/lib/libipcspace.a", prefix().display()));
    whole.extend(["-lm", "-ldl"].map(str::to_owned));
    let kernels = compile(&format!("{name}-kernels"), &source, &[]);
    let dynamic = compile(&format!("{name}-dynamic"), &source, &flags("ipcspace-names"));
    let whole = compile(&format!("{name}-whole"), &source, &whole);

    let expected = run(&kernels, &[]);
    let place = format!("c-{name}-{}", std::process::id());
    for program in [&dynamic, &whole] {
        for variables in [&[][..], &[("IPCSPACE_NAMESPACE", &*place)]] {
            assert_eq!(run(program, variables), expected, "{}", program.display());
        }
    }
    expected
}

#[test]
fn a_program_for_the_kernel_says_the_same() {
    let said = say_the_same("kernel");
    assert!(said.contains("200 jobs done, 200 by all workers, sum 20100\n"), "{said}");
    assert!(said.contains("shmdt(&large): Invalid argument\n"), "{said}");
}

#[test]
fn a_queue_tells_by_a_thread() {
    let said = say_the_same("notify");
    assert!(said.contains("message 2: 42, another thread: 1, SIGUSR1 blocked: 0\n"), "{said}");
    assert!(said.ends_with("done\n"), "{said}");
}

#[test]
fn who_maps_no_names_has_both() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/names.c");
    run(&compile("names", &source, &flags("ipcspace")), &[]);
}

#[test]
fn the_library_exports_what_its_header_declares() {
    let header = fs::read_to_string(prefix().join("include/ipcspace.h")).unwrap();
    let mut declared: Vec<&str> = header
        .lines()
        .filter_map(|line| {
            let from = line.find("ipcspace_")?;
            let name = &line[from..from + line[from..].find('(')?];
            (!line.trim_start().starts_with(['*', '/'])).then_some(name)
        })
        .collect();
    declared.sort_unstable();
    let nm = Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(prefix().join("lib/libipcspace.so"))
        .output()
        .unwrap();
    let listed = String::from_utf8(nm.stdout).unwrap();
    let mut exported: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    exported.sort_unstable();
    assert_eq!(exported, declared);
    // The plain names are all calls.
    let names = fs::read_to_string(prefix().join("include/ipcspace/names.h")).unwrap();
    for define in names.lines().filter_map(|line| line.strip_prefix("#define ")).filter(|d| d.contains(' ')) {
        let (plain, ours) = define.split_once(' ').unwrap();
        assert!(ours == format!("ipcspace_{plain}") && declared.contains(&ours), "{define}");
    }
}

//! `cargo xtask tidy`: prints each place that breaks a rule, and what the rule is.
//!
//! The rules: [`layers`] for dependencies, [`source`] for Rust files, [`paths`] for every file.

mod layers;
mod paths;
mod source;

use std::error::Error;
use std::path::Path;
use std::process::Command;

/// Checks the repository; whether it is tidy.
pub(crate) fn run(root: &Path) -> Result<bool, Box<dyn Error>> {
    let broken = broken(root)?;
    for place in &broken {
        eprintln!("{place}");
    }
    println!("tidy: {} broken", broken.len());
    Ok(broken.is_empty())
}

/// Where a rule is broken, a line each.
fn broken(root: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut broken = Vec::new();
    for name in files(root)? {
        // Binary files say nothing; a file that git still lists may be gone.
        let Ok(text) = std::fs::read_to_string(root.join(&name)) else { continue };
        broken.extend(paths::check(&name, &text));
        if name.ends_with("Cargo.toml") {
            broken.extend(layers::check(&name, &text)?);
        }
        if name.ends_with(".rs") {
            broken.extend(source::check(&name, &text)?);
        }
    }
    Ok(broken)
}

/// The repository's files, new ones too, ignored ones not.
fn files(root: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    if !listed.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim()).into());
    }
    Ok(String::from_utf8(listed.stdout)?.split_terminator('\0').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_is_tidy() {
        let root = crate::root();
        assert_eq!(super::broken(&root).unwrap(), Vec::<String>::new());
        assert!(super::files(&root).unwrap().iter().any(|name| name == "crates/engine/src/lib.rs"));
    }
}

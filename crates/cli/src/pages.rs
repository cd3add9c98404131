//! `ipcspace pages`: the manual pages and completions, made from the options themselves.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(crate) struct Pages {
    /// Where they go, as in /usr/share or ~/.local/share: man/man1, bash-completion, zsh and fish below it
    directory: PathBuf,
}

/// Where each shell looks for what others provide.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/ipcspace"),
    (Shell::Zsh, "zsh/vendor-completions/_ipcspace"),
    (Shell::Fish, "fish/vendor_completions.d/ipcspace.fish"),
];

pub(crate) fn pages(pages: &Pages) -> ExitCode {
    match write(&pages.directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ipcspace: cannot write below {}: {error}", pages.directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    let command = || crate::Cli::command().version(env!("CARGO_PKG_VERSION"));
    let manual = directory.join("man/man1");
    fs::create_dir_all(&manual)?;
    clap_mangen::generate_to(command(), manual)?;
    for (shell, place) in COMPLETIONS {
        let path = directory.join(place);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        clap_complete::generate(shell, &mut command(), "ipcspace", &mut fs::File::create(path)?);
    }
    Ok(())
}

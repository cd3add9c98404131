//! `ipcspace serve`: a named namespace that lives until it is ended.

use std::process::ExitCode;

use broker::service::Error;
use clap::Args;

use crate::config::Config;
use crate::run::{sysctl, ulimit};
use crate::source;

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The name by which others join it
    #[arg(value_parser = source::name)]
    name: String,
    /// Set a limit of the new namespace, as sysctl(8) would: kernel.msgmnb=65536
    #[arg(long, value_name = "KEY=VALUE", value_parser = sysctl)]
    sysctl: Vec<(String, String)>,
    /// Give the new namespace a limit of its own in place of each process's: msgqueue=BYTES, or msgqueue=unlimited
    #[arg(long, value_name = "LIMIT=VALUE", value_parser = ulimit)]
    ulimit: Vec<(String, String)>,
}

pub(crate) fn serve(serve: &Serve) -> ExitCode {
    let name = &serve.name;
    let ready = |goes_on| {
        let since = if goes_on { ", from where the one before was killed" } else { "" };
        eprintln!("ipcspace: serving '{name}'{since}; 'ipcspace exec {name} -- CMD' joins it");
    };
    let warn = |what: &str| eprintln!("ipcspace: warning: {what}");
    let config = match Config::of(Some(name)) {
        Ok(config) => config,
        Err(invalid) => {
            eprintln!("ipcspace: {invalid}");
            return ExitCode::FAILURE;
        }
    };
    let sysctls = config.with(&[&serve.sysctl[..], &serve.ulimit].concat());
    match broker::serve::serve(name, &sysctls, ready, warn).map_err(|error| config.explain(error)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ok(invalid)) => {
            eprintln!("ipcspace: {invalid}");
            ExitCode::FAILURE
        }
        Err(Err(Error::Taken)) => {
            eprintln!("ipcspace: there is a namespace '{name}' already; 'ipcspace ns' shows whose it is");
            ExitCode::FAILURE
        }
        Err(Err(error)) => {
            eprintln!("ipcspace: {error}");
            ExitCode::FAILURE
        }
    }
}

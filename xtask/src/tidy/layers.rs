//! The arrows of dependency point downwards only.
//!
//! A crate of ours may need the ones named here, and no foreign one but those named. Its tests may need any foreign
//! one, and so may its models. The tests of the whole need ours only as the command that they run, and
//! as the kernel of a simulated machine.

use toml::{Table, Value};

/// A crate, and what it may need: of ours, and of others.
struct Layer {
    name: &'static str,
    ours: &'static [&'static str],
    foreign: Foreign,
}

enum Foreign {
    Only(&'static [&'static str]),
    Any,
}
use Foreign::{Any, Only};

/// From the lowest to the highest.
const LAYERS: &[Layer] = &[
    Layer { name: "abi", ours: &[], foreign: Only(&[]) },
    Layer { name: "sys", ours: &["abi"], foreign: Only(&[]) },
    Layer { name: "arena", ours: &["abi"], foreign: Only(&[]) },
    Layer { name: "engine", ours: &["abi", "arena"], foreign: Only(&[]) },
    Layer { name: "client", ours: &["abi", "sys", "arena", "engine"], foreign: Only(&[]) },
    Layer { name: "preload", ours: &["abi", "sys", "arena", "engine", "client"], foreign: Only(&[]) },
    Layer {
        name: "trap",
        ours: &["abi", "sys", "arena", "engine", "client"],
        foreign: Only(&["libc", "nix", "thiserror"]),
    },
    Layer {
        name: "views",
        ours: &["abi", "sys", "arena", "engine", "client"],
        foreign: Only(&["fuser", "nix", "parking_lot", "procfs", "thiserror"]),
    },
    Layer {
        name: "broker",
        ours: &["abi", "sys", "arena", "engine", "client", "trap", "views"],
        foreign: Only(&["libc", "nix", "parking_lot", "sd-notify", "thiserror"]),
    },
    Layer {
        name: "ipcspace",
        ours: &["abi", "engine", "client", "broker"],
        foreign: Only(&["libc", "postcard", "serde", "tokio"]),
    },
    Layer { name: "libipcspace", ours: &["abi", "engine", "ipcspace"], foreign: Only(&["libc"]) },
    Layer {
        name: "cli",
        ours: &["abi", "sys", "arena", "engine", "client", "trap", "views", "broker", "ipcspace"],
        foreign: Any,
    },
    Layer {
        name: "kernel_host",
        ours: &["abi", "arena", "engine"],
        foreign: Only(&["corosensei", "rand", "rand_xoshiro"]),
    },
    Layer { name: "int80", ours: &["abi"], foreign: Any },
    Layer { name: "world", ours: &["abi", "int80", "kernel_host"], foreign: Any },
    Layer { name: "conformance", ours: &["abi", "ipcspace", "int80", "kernel_host", "world"], foreign: Any },
    Layer { name: "differential", ours: &["world"], foreign: Any },
    Layer { name: "hostile", ours: &["abi", "sys", "engine", "client"], foreign: Any },
    Layer { name: "crash", ours: &["arena", "engine", "client"], foreign: Any },
    Layer { name: "bench", ours: &["ipcspace", "world"], foreign: Any },
    Layer { name: "xtask", ours: &[], foreign: Any },
];

/// What breaks the rule in a manifest.
pub(super) fn check(file: &str, text: &str) -> Result<Vec<String>, toml::de::Error> {
    let manifest: Table = text.parse()?;
    let Some(name) = manifest.get("package").and_then(|package| package.get("name")?.as_str()) else {
        return Ok(Vec::new());
    };
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
        return Ok(vec![format!("{file}: {name} has no place among the layers of xtask/src/tidy/layers.rs")]);
    };
    let mut broken = Vec::new();
    for (needed, only_tests) in needed(&manifest) {
        let allowed = match LAYERS.iter().any(|layer| layer.name == needed) {
            true => layer.ours.contains(&needed.as_str()),
            false => {
                only_tests
                    || matches!(layer.foreign, Any)
                    || matches!(layer.foreign, Only(some) if some.contains(&needed.as_str()))
            }
        };
        if !allowed {
            broken.push(format!("{file}: {name} must not depend on {needed}"));
        }
    }
    Ok(broken)
}

/// The packages that a manifest needs, and whether only its tests or models do.
fn needed(manifest: &Table) -> Vec<(String, bool)> {
    let mut all = of_one_target(manifest, false);
    for (target, tables) in manifest.get("target").and_then(Value::as_table).into_iter().flatten() {
        let model = ["cfg(loom)", "cfg(shuttle)"].contains(&target.as_str());
        all.extend(tables.as_table().into_iter().flat_map(|tables| of_one_target(tables, model)));
    }
    all
}

fn of_one_target(tables: &Table, model: bool) -> Vec<(String, bool)> {
    let kinds = [("dependencies", model), ("build-dependencies", model), ("dev-dependencies", true)];
    let mut all = Vec::new();
    for (kind, only_tests) in kinds {
        for (key, value) in tables.get(kind).and_then(Value::as_table).into_iter().flatten() {
            // A dependency may go by another name.
            let package = value.get("package").and_then(Value::as_str).unwrap_or(key);
            all.push((package.to_owned(), only_tests));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(name: &str, rest: &str) -> usize {
        check("Cargo.toml", &format!("[package]\nname = \"{name}\"\n{rest}")).unwrap().len()
    }

    #[test]
    fn an_arrow_upwards_is_found_wherever_it_starts() {
        for table in [
            "dependencies",
            "dev-dependencies",
            "build-dependencies",
            "target.'cfg(loom)'.dependencies",
            "target.'cfg(unix)'.dev-dependencies",
        ] {
            assert_eq!(broken("engine", &format!("[{table}]\nclient.workspace = true")), 1, "{table}");
            assert_eq!(
                broken("engine", &format!("[{table}]\nx = {{ package = \"sys\", path = \"x\" }}")),
                1,
                "{table}"
            );
            assert_eq!(broken("engine", &format!("[{table}]\narena.workspace = true")), 0, "{table}");
        }
    }

    #[test]
    fn foreign_crates_are_for_tests_and_for_the_top() {
        assert_eq!(broken("client", "[dependencies]\nlibc = \"0.2\""), 1);
        assert_eq!(broken("client", "[dev-dependencies]\nlibc = \"0.2\""), 0);
        assert_eq!(broken("arena", "[target.'cfg(loom)'.dependencies]\nloom = \"0.7\""), 0);
        assert_eq!(broken("broker", "[dependencies]\nlibc = \"0.2\""), 0);
        assert_eq!(broken("broker", "[dependencies]\nclap = \"4\""), 1);
        assert_eq!(broken("cli", "[dependencies]\nclap = \"4\""), 0);
    }

    #[test]
    fn the_tests_of_the_whole_know_the_command_and_the_simulated_machine_only() {
        assert_eq!(broken("conformance", "[dependencies]\nengine.workspace = true"), 1);
        assert_eq!(broken("world", "[dependencies]\nclient.workspace = true"), 1);
        assert_eq!(broken("conformance", "[dependencies]\nworld.workspace = true"), 0);
    }

    #[test]
    fn a_crate_without_a_place_is_found() {
        assert_eq!(broken("novel", ""), 1);
    }
}

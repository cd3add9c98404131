//! No file names a place of one developer's machine.

/// Where such places begin; in parts, so that this file passes.
const PLACES: [&str; 3] = [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "tmp/t-")];

/// What breaks the rule in a file.
pub(super) fn check(name: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    lines
        .flat_map(|(at, line)| {
            PLACES.iter().filter(move |place| names(line, place)).map(move |place| (at, place))
        })
        .map(|(at, place)| format!("{name}:{}: a path of one machine: {place}", at + 1))
        .collect()
}

/// Whether a line has a path that begins like this; not one that only goes on like this.
fn names(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|before| before.is_alphanumeric() || "_-.}*".contains(before))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_path_is_found() {
        for place in PLACES {
            assert_eq!(check("a", &format!("fine\ncd {place}x")).len(), 1, "{place}");
            assert_eq!(check("a", &format!("\"{place}x\"")).len(), 1, "{place}");
        }
    }

    #[test]
    fn the_inside_of_another_path_is_not() {
        for place in PLACES {
            assert_eq!(check("a", &format!("$stage{place} ${{x}}{place}")), Vec::<String>::new());
        }
    }
}

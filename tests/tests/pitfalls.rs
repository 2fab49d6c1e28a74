//! Holds `docs/pitfalls.md` to the code: the files are there, and so are the tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use plimsoll_tests::paths;

fn read(path: &str) -> String {
    std::fs::read_to_string(paths::project().join(path))
        .unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn is_path(text: &str) -> bool {
    text.contains('/') && !text.starts_with('/')
}

/// The cells of each row.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// Whether a file has a function of that name which a test's attribute stands above.
fn is_a_test(code: &str, name: &str) -> bool {
    let Some((before, _)) = code.split_once(&format!("fn {name}(")) else { return false };
    let above = before.trim_end_matches(|letter| letter != '\n').lines().rev();
    above.take_while(|line| !line.trim().is_empty()).any(|line| {
        ["#[test]", "#[tokio::test", "proptest!"].iter().any(|attribute| line.trim().starts_with(attribute))
    })
}

#[test]
fn every_pitfall_has_a_file_and_a_test() {
    let text = read("docs/pitfalls.md");
    let rows = rows(&text);
    assert!(rows.len() >= 20, "the table has {} rows", rows.len());
    for (number, row) in rows.iter().enumerate() {
        let [count, _, place, tests] = row[..] else { panic!("four columns: {row:?}") };
        assert_eq!(count, (number + 1).to_string(), "rows are counted");
        for path in quoted(place).into_iter().filter(|text| is_path(text) || text.starts_with("Cargo.")) {
            assert!(paths::project().join(path).is_file(), "row {count}: there is no {path}");
        }
        let mut file = None;
        let mut shown = 0;
        for text in quoted(tests) {
            if is_path(text) {
                file = Some((text, read(text)));
                continue;
            }
            let (path, code) = file.as_ref().unwrap_or_else(|| panic!("row {count}: {text} is in no file"));
            assert!(is_a_test(code, text), "row {count}: {path} has no test {text}");
            shown += 1;
        }
        assert!(shown > 0, "row {count} has no test");
    }
}

fn dependency<'a>(manifest: &'a str, name: &str) -> &'a str {
    manifest.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap()
}

#[test]
fn the_types_are_those_of_the_oldest_kubernetes() {
    let manifest = read("Cargo.toml");
    let types = dependency(&manifest, "k8s-openapi");
    assert!(types.contains("\"v1_33\"") && !types.contains("latest"), "{types}");
}

#[test]
fn answers_are_not_compressed() {
    for manifest in ["Cargo.toml", "operator/Cargo.toml"] {
        let manifest = read(manifest);
        let kube = dependency(&manifest, "kube");
        assert!(!kube.contains("gzip"), "{kube}");
    }
    let manifest = read("Cargo.toml");
    assert!(dependency(&manifest, "kube").contains("default-features = false"));
}

#[test]
fn there_is_one_version_of_the_library() {
    let lock = read("Cargo.lock");
    for name in ["kube-client", "kube-core", "kube-runtime", "k8s-openapi"] {
        assert_eq!(lock.matches(&format!("name = \"{name}\"\n")).count(), 1, "{name}");
    }
}

//! Holds the documents together: links lead somewhere, and what the README quotes of the benchmarks is what they say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use plimsoll_tests::paths;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

fn markdown_in(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

fn pages() -> Vec<PathBuf> {
    let root = paths::project();
    let folders = ["", "docs", "docs/adr", "charts/plimsoll"].map(|folder| markdown_in(&root.join(folder)));
    folders.into_iter().flatten().collect()
}

/// Where a page's links lead, code blocks left out.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split("](").skip(1).filter_map(|rest| rest.split(')').next()))
}

/// The anchor that a heading gets, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn links_lead_to_a_file_and_a_heading_that_are_there() {
    let mut followed = 0;
    for page in pages() {
        let text = read(&page);
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            if !heading.is_empty() {
                let text = read(&target);
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let mut anchors = headings.map(|line| anchor(line.trim_start_matches('#')));
                assert!(anchors.any(|anchor| anchor == heading), "{}: {link} has no heading", page.display());
            }
            followed += 1;
        }
    }
    assert!(followed > 50, "only {followed} links were found");
}

#[test]
fn the_readme_quotes_the_benchmarks_as_they_are() {
    let root = paths::project();
    let (readme, benchmarks) = (read(&root.join("README.md")), read(&root.join("docs/benchmarks.md")));
    let (_, section) = readme.split_once("## Beside HPA, KEDA and Knative").unwrap();
    let rows = section
        .split("\n## ")
        .next()
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('×'));
    let rows: Vec<&str> = rows.collect();
    assert_eq!(rows.len(), 6, "{rows:?}");
    for row in rows {
        assert!(
            benchmarks.lines().any(|line| line.starts_with(row)),
            "docs/benchmarks.md does not say {row}"
        );
    }
}

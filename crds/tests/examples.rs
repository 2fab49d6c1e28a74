//! The example manifests hold what the types know, and nothing else.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use plimsoll_crds::ApiDeployment;
use serde_json::Value;

/// Whether everything that is written was read, and read as it is written.
fn holds(read: &Value, written: &Value) -> bool {
    match (read, written) {
        (Value::Object(read), Value::Object(written)) => {
            written.iter().all(|(key, value)| read.get(key).is_some_and(|read| holds(read, value)))
        }
        (Value::Array(read), Value::Array(written)) => {
            read.len() == written.len()
                && read.iter().zip(written).all(|(read, written)| holds(read, written))
        }
        _ => read == written,
    }
}

#[test]
fn examples_hold_only_fields_that_are_there() {
    let directory = [env!("CARGO_MANIFEST_DIR"), "examples"].iter().collect::<PathBuf>();
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let written: Value = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let app: ApiDeployment = serde_json::from_value(written.clone())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let read = serde_json::to_value(app).unwrap();
        assert!(holds(&read, &written), "{}: read as {read:#}", path.display());
        seen += 1;
    }
    assert!(seen >= 3);
}

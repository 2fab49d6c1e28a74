//! Results that are published beside the tables, packed.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::de::DeserializeOwned;

/// Writes JSON as gzip.
///
/// # Errors
/// When the file cannot be written.
pub fn pack(json: &[u8], path: &Path) -> Result<()> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(json).context("pack the results")?;
    let packed = packed.finish().context("pack the results")?;
    std::fs::write(path, packed).with_context(|| format!("write {}", path.display()))
}

/// Reads JSON that may be packed: a name that ends with `.gz` says that it is.
///
/// # Errors
/// When the file cannot be read, or holds something else.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let read = if path.extension().is_some_and(|extension| extension == "gz") {
        serde_json::from_reader(GzDecoder::new(bytes.as_slice()))
    } else {
        serde_json::from_slice(&bytes)
    };
    read.with_context(|| format!("{} holds no results of this version", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (packed, plain) = (folder.path().join("a.json.gz"), folder.path().join("a.json"));
        pack(b"[1, 2]", &packed).unwrap();
        std::fs::write(&plain, b"[1, 2]").unwrap();
        assert_eq!(read::<Vec<u32>>(&packed).unwrap(), [1, 2]);
        assert_eq!(read::<Vec<u32>>(&plain).unwrap(), [1, 2]);
        let error = read::<String>(&plain).unwrap_err().to_string();
        assert!(error.contains("holds no results"), "{error}");
    }
}

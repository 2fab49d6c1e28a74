//! The posts that every server answers with. Plimsoll is given them by `POST /posts`; what it makes of them is written to
//! a file for its rivals, so that all send the same bytes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use plimsoll_load::client::Client;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::case::LIST;

/// Posts there are; a list shows twenty.
pub const POSTS: usize = 100;
/// About as long as a post's Markdown is.
const BODY_BYTES: usize = 1000;
/// Any; the same one gives the same posts.
const SEED: u64 = 1876;

// Neither letters beyond ASCII nor `<`, `>` and `&`: JSON writers escape those differently, and the bytes would differ.
const WORDS: [&str; 48] = [
    "ship",
    "line",
    "load",
    "water",
    "summer",
    "winter",
    "cargo",
    "harbour",
    "hull",
    "mark",
    "the",
    "a",
    "of",
    "to",
    "and",
    "with",
    "carries",
    "paints",
    "keeps",
    "no",
    "more",
    "than",
    "sea",
    "north",
    "tropical",
    "fresh",
    "master",
    "owner",
    "court",
    "law",
    "iron",
    "timber",
    "sails",
    "steam",
    "depth",
    "draught",
    "measure",
    "certificate",
    "surveyor",
    "deck",
    "freeboard",
    "safe",
    "season",
    "voyage",
    "storm",
    "calm",
    "tide",
    "weight",
];

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// `/health`'s body.
    pub health: Value,
    /// Every post's body, the oldest first.
    pub posts: Vec<Value>,
    /// The list's body.
    pub page: Value,
}

impl Content {
    /// Gives an empty Plimsoll the posts, and reads what it answers with.
    ///
    /// # Errors
    /// When it refuses a post or has no list.
    pub async fn seed(plimsoll: &Client) -> Result<Self> {
        let mut random = SmallRng::seed_from_u64(SEED);
        let mut posts = Vec::new();
        for number in 0..POSTS {
            let draft = draft(number, &mut random).to_string();
            posts.push(
                super::ask(plimsoll, http::Method::POST, "/posts", &[], Bytes::from(draft)).await?.json()?,
            );
        }
        let health = super::get(plimsoll, "/health", &[]).await?.json()?;
        // An older Plimsoll has the list under another path only; its rivals are measured all the same.
        let page = match super::get(plimsoll, LIST, &[]).await {
            Ok(answer) => answer.json()?,
            Err(_) => super::get(plimsoll, "/posts?limit=20", &[]).await?.json()?,
        };
        if page["items"].as_array().map(Vec::len) != Some(20) {
            bail!("Plimsoll's list does not hold 20 posts");
        }
        Ok(Self { health, posts, page })
    }

    /// Ids of the posts.
    pub fn ids(&self) -> impl Iterator<Item = String> {
        self.posts.iter().map(|post| post["id"].to_string())
    }

    /// Writes what the rivals read: `data.json`, and for nginx a file for each answer, compressed beside it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write(&folder.join("data.json"), &serde_json::to_vec(self)?)?;
        let files = folder.join("files");
        for dir in ["posts", "public"] {
            std::fs::create_dir_all(files.join(dir)).with_context(|| format!("create {dir}"))?;
        }
        for (id, post) in self.ids().zip(&self.posts) {
            write(&files.join("posts").join(id), &serde_json::to_vec(post)?)?;
        }
        let page = serde_json::to_vec(&self.page)?;
        write(&files.join("public/posts.json"), &page)?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&page)?;
        write(&files.join("public/posts.json.gz"), &gzip.finish()?)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// A post: a title, and Markdown with a heading, paragraphs and a list.
fn draft(number: usize, random: &mut SmallRng) -> Value {
    let mut words = |count: usize| {
        let mut text = String::new();
        for _ in 0..count {
            text.push_str(if text.is_empty() { "" } else { " " });
            text.push_str(WORDS[random.random_range(0..WORDS.len())]);
        }
        text
    };
    let mut body = format!("# {}\n\n", words(4));
    while body.len() < BODY_BYTES - 150 {
        let _ = write!(body, "{}. **{}** {}.\n\n", words(12), words(2), words(8));
    }
    for _ in 0..3 {
        let _ = writeln!(body, "- {}", words(5));
    }
    json!({ "title": format!("{number}: {}", words(5)), "body": body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_posts_are_the_same_every_time_and_about_a_kilobyte() {
        let all = || {
            let mut random = SmallRng::seed_from_u64(SEED);
            (0..POSTS).map(|number| draft(number, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(all(), all());
        for post in all() {
            let body = post["body"].as_str().unwrap();
            assert!((850..1250).contains(&body.len()), "{}", body.len());
            assert!(body.bytes().all(|byte| byte.is_ascii() && !b"<>&\"\\".contains(&byte)), "{body}");
        }
    }
}

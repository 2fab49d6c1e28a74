//! What is asked of every server: the same paths and headers for all.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::content::{Content, POSTS};

/// A kind of request that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// `GET /health`: a small JSON text.
    Health,
    /// `GET /posts/{id}` over a hundred posts that Redis has.
    Post,
    /// `GET /public/posts?limit=20` without a content coding.
    List,
    /// The list as gzip.
    ListGzip,
    /// The list as brotli.
    ListBr,
    /// The list of a client that has it already: 304.
    NotModified,
}

/// The list's path.
pub const LIST: &str = "/public/posts?limit=20";

impl Case {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 6] =
        [Self::Health, Self::Post, Self::List, Self::ListGzip, Self::ListBr, Self::NotModified];

    /// As `--only` and the JSON name it.
    pub fn id(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Post => "post",
            Self::List => "list",
            Self::ListGzip => "list-gzip",
            Self::ListBr => "list-br",
            Self::NotModified => "not-modified",
        }
    }

    /// Head of a table's column.
    pub fn title(self) -> &'static str {
        match self {
            Self::Health => "`/health`",
            Self::Post => "cached post",
            Self::List => "list",
            Self::ListGzip => "list, gzip",
            Self::ListBr => "list, br",
            Self::NotModified => "304",
        }
    }

    /// Paths that are asked for in turn.
    pub fn paths(self, content: &Content) -> Vec<String> {
        match self {
            Self::Health => vec!["/health".to_owned()],
            Self::Post => content.ids().take(POSTS).map(|id| format!("/posts/{id}")).collect(),
            Self::List | Self::ListGzip | Self::ListBr | Self::NotModified => vec![LIST.to_owned()],
        }
    }

    /// The content coding that is asked for.
    pub fn coding(self) -> Option<&'static str> {
        match self {
            Self::ListGzip => Some("gzip"),
            Self::ListBr => Some("br"),
            Self::Health | Self::Post | Self::List | Self::NotModified => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_has_one_name_everywhere() {
        for case in Case::ALL {
            assert_eq!(serde_json::to_value(case).unwrap(), case.id());
            assert_eq!(case.to_possible_value().unwrap().get_name(), case.id());
        }
    }
}

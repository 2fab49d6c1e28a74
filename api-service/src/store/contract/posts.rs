//! Single posts: reading and writing them, alone and many at once.

use jiff::Timestamp;

use super::{content, create, now, tagged};
use crate::{
    post::{self, ANONYMOUS, Content, Post},
    store::{Conditional, Store, StoreError},
};

pub(super) async fn keeps(store: &Store) {
    creates_and_reads(store).await;
    gives_an_author_one_id(store).await;
    replaces_with_a_higher_version(store).await;
    replaces_tags_and_keeps_the_author(store).await;
    writes_only_versions_that_are_expected(store).await;
    deletes_once_and_never_uses_an_id_again(store).await;
    refuses_what_the_schema_forbids(store).await;
    loses_no_write_among_many(store).await;
    adds_new_names_once_among_many(store).await;
    a_read_never_mixes_two_versions(store).await;
}

async fn creates_and_reads(store: &Store) {
    // All that text may hold: quotes, SQL, the whole of Unicode.
    let content = content("Robert'); DROP TABLE posts;--", "naïve 🦀 \u{10ffff}\n");
    let now = now();
    let created = create(store, content.clone()).await;
    assert!(created.created_at >= now && created.created_at == created.updated_at);
    assert_eq!((created.version, created.author.name.as_str()), (1, ANONYMOUS));
    assert_eq!((&created.title, &created.body), (&content.title, &content.body));
    assert_eq!(store.read(created.id).await.unwrap(), Some(created));
    assert_eq!(store.read(i64::MAX).await.unwrap(), None);

    let created = create(store, tagged("Ann O'Neill, PhD 🦀", &["a-1", "http", "rust"])).await;
    assert_eq!((created.author.name.as_str(), created.tags.len()), ("Ann O'Neill, PhD 🦀", 3));
    assert_eq!(store.read(created.id).await.unwrap(), Some(created));
}

async fn gives_an_author_one_id(store: &Store) {
    let first = create(store, tagged("ann", &[])).await;
    let second = create(store, tagged("ann", &["x"])).await;
    let other = create(store, tagged("Ann", &["x"])).await;
    assert_eq!(first.author, second.author);
    assert_ne!(first.author.id, other.author.id);
}

async fn replaces_with_a_higher_version(store: &Store) {
    let first = create(store, content("old", "old")).await;
    let second = replace(store, first.id, content("new", ""), now()).await;
    assert_eq!((second.version, second.title.as_str(), second.body.as_str()), (2, "new", ""));
    assert_eq!(second.created_at, first.created_at);
    assert!(second.updated_at >= first.updated_at);
    // A replica whose clock is behind does not turn the time back.
    let third = replace(store, first.id, content("new", ""), Timestamp::UNIX_EPOCH).await;
    assert_eq!((third.version, third.updated_at), (3, second.updated_at));
    assert_eq!(store.read(first.id).await.unwrap(), Some(third));
    let missing = store.replace(i64::MAX, content("none", ""), None, now()).await.unwrap();
    assert_eq!(missing, Conditional::Missing);
}

async fn replaces_tags_and_keeps_the_author(store: &Store) {
    let first = create(store, tagged("bea", &["http", "rust"])).await;
    let mut content = tagged("", &["new-here", "rust"]);
    content.author = None;
    let second = replace(store, first.id, content.clone(), now()).await;
    assert_eq!((&second.author, &second.tags), (&first.author, &content.tags));
    assert_eq!(store.read(first.id).await.unwrap(), Some(second));
    // Another author: the tags' copy of the author's id goes along, or lists by both would lose the post.
    let third = replace(store, first.id, tagged("bob", &["rust"]), now()).await;
    assert_eq!((third.author.name.as_str(), third.tags.len()), ("bob", 1));
    assert_eq!(store.read(first.id).await.unwrap(), Some(third));
    let fourth = replace(store, first.id, tagged("bob", &[]), now()).await;
    assert!(fourth.tags.is_empty());
    assert_eq!(store.read(first.id).await.unwrap(), Some(fourth));
}

async fn writes_only_versions_that_are_expected(store: &Store) {
    let id = create(store, tagged("ann", &["kept"])).await.id;
    let replace = async |expected: &[i64]| {
        store.replace(id, tagged("eve", &["evil"]), Some(expected.to_vec()), now()).await.unwrap()
    };
    for unexpected in [&[][..], &[2, 3], &[0, -1, i64::MAX]] {
        assert_eq!(replace(unexpected).await, Conditional::Changed, "{unexpected:?}");
        assert_eq!(store.delete(id, Some(unexpected.to_vec())).await.unwrap(), Conditional::Changed);
    }
    let kept = store.read(id).await.unwrap().unwrap();
    assert_eq!((kept.version, kept.tags.as_slice()), (1, &["kept".to_owned()][..]));
    assert!(matches!(replace(&[7, 1]).await, Conditional::Done(Post { version: 2, .. })));
    assert_eq!(replace(&[1]).await, Conditional::Changed);
    assert_eq!(store.delete(id, Some(vec![2])).await.unwrap(), Conditional::Done(()));
    assert_eq!(replace(&[2]).await, Conditional::Missing);
    assert_eq!(store.delete(id, Some(vec![2])).await.unwrap(), Conditional::Missing);

    // Of many that expect the same version, one is let through.
    let id = create(store, content("contended", "")).await.id;
    let writes = (0..10).map(|_| store.replace(id, content("mine", ""), Some(vec![1]), now()));
    let outcomes = futures::future::join_all(writes).await;
    let done = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Conditional::Done(_)))).count();
    let changed = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Conditional::Changed))).count();
    assert_eq!((done, changed), (1, 9), "{outcomes:?}");
}

async fn deletes_once_and_never_uses_an_id_again(store: &Store) {
    let gone = create(store, tagged("ann", &["short-lived"])).await;
    assert_eq!(store.delete(gone.id, None).await.unwrap(), Conditional::Done(()));
    assert_eq!(store.delete(gone.id, None).await.unwrap(), Conditional::Missing);
    assert_eq!(store.read(gone.id).await.unwrap(), None);
    assert!(create(store, content("next", "")).await.id > gone.id);
}

async fn refuses_what_the_schema_forbids(store: &Store) {
    let long = "x".repeat(65_537);
    let cases = [
        (content("", ""), "posts_title"),
        (content("long", &long), "posts_body"),
        (tagged("", &[]), "authors_name"),
        (tagged(&"x".repeat(81), &[]), "authors_name"),
        (tagged("ann", &["Upper"]), "tags_name"),
        (tagged("ann", &[""]), "tags_name"),
    ];
    for (content, constraint) in cases {
        let refused = store.create(content, None, now()).await;
        assert!(
            matches!(&refused, Err(StoreError::Rejected { constraint: name }) if name == constraint),
            "{refused:?}"
        );
    }
    // What comes with a post that is refused is not added either.
    let before = store.count("authors").await;
    let refused = store.create(tagged("never-seen", &["Upper"]), None, now()).await;
    assert!(matches!(refused, Err(StoreError::Rejected { .. })));
    assert_eq!(store.count("authors").await, before);

    let mut longest = tagged(&"ü".repeat(post::AUTHOR_CHARS_MAX), &[&"x".repeat(post::TAG_CHARS_MAX)]);
    longest.title = "ü".repeat(post::TITLE_CHARS_MAX);
    longest.body = "x".repeat(post::BODY_BYTES_MAX);
    create(store, longest).await;
}

async fn loses_no_write_among_many(store: &Store) {
    let post = create(store, content("contended", "")).await;
    let tags = [["a", "b"], ["b", "c"], ["a", "c"]];
    let writes =
        (0..20).map(|number: usize| replace(store, post.id, tagged("ann", &tags[number % 3]), now()));
    let written = futures::future::join_all(writes).await;
    let mut versions: Vec<_> = written.iter().map(|post| post.version).collect();
    versions.sort_unstable();
    assert_eq!(versions, (2..=21).collect::<Vec<_>>());
    // The tags that are left are those of the last write, not of several.
    let last = written.into_iter().find(|post| post.version == 21);
    assert_eq!(store.read(post.id).await.unwrap(), last);
}

async fn adds_new_names_once_among_many(store: &Store) {
    // Given in either order: the same author and tags, which most of these find to be new.
    let orders = [["new-1", "new-2", "new-3"], ["new-3", "new-2", "new-1"]];
    let writes = (0..12).map(|number: usize| create(store, tagged("newcomer", &orders[number % 2])));
    let posts = futures::future::join_all(writes).await;
    assert!(posts.iter().all(|post| post.author == posts[0].author));
    for post in &posts {
        assert_eq!(store.read(post.id).await.unwrap().unwrap().tags, orders[0]);
    }
}

/// Each version's body and tags name it, so a mixture shows.
async fn a_read_never_mixes_two_versions(store: &Store) {
    let version = |number: usize| {
        let mut content = tagged("ann", &[&format!("v{number}")]);
        content.body = format!("v{number}");
        content
    };
    let id = create(store, version(0)).await.id;
    let writes = async {
        for number in 1..40 {
            replace(store, id, version(number), now()).await;
        }
    };
    let reads = async {
        for _ in 0..80 {
            let post = store.read(id).await.unwrap().unwrap();
            assert!(post.tags.iter().eq([&post.body]), "{post:?}");
        }
    };
    tokio::join!(writes, reads);
}

async fn replace(store: &Store, id: i64, content: Content, now: Timestamp) -> Post {
    match store.replace(id, content, None, now).await.unwrap() {
        Conditional::Done(post) => post,
        other => panic!("{other:?}"),
    }
}

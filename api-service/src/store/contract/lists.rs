//! Lists: their order, their filters, and what they hold while posts come and go.

use std::collections::HashSet;

use super::{content, create, now, tagged};
use crate::{
    post::Post,
    store::{Columns, Conditional, Filter, Query, Store, StoreMetrics},
};

const EVERYTHING: Columns = Columns { body: true, tags: true };

pub(super) async fn keeps(store: &Store, metrics: &StoreMetrics) {
    lists_newest_first_without_gaps(store).await;
    lists_what_the_filter_lets_through(store).await;
    reads_no_column_that_is_not_asked_for(store).await;
    stays_right_while_posts_come_and_go(store).await;
    asks_once_for_a_page_of_any_length(store, metrics).await;
}

async fn lists_newest_first_without_gaps(store: &Store) {
    let mut made = Vec::new();
    for number in 0..5 {
        made.push(create(store, content(&format!("post {number}"), "")).await);
    }
    made.reverse();
    let first = list(store, &Filter::default(), None, 2).await;
    assert_eq!(first, made[..2]);
    // Pages stay aligned when posts come and go at the front.
    create(store, content("newer", "")).await;
    assert_eq!(list(store, &Filter::default(), Some(first[1].id), 3).await, made[2..]);
    assert!(list(store, &Filter::default(), Some(1), 3).await.is_empty());
}

async fn lists_what_the_filter_lets_through(store: &Store) {
    let mut made = Vec::new();
    for number in 0..12 {
        let author = ["list-ann", "list-bob"][number % 2];
        let tags: &[&str] = [&["list-x"][..], &["list-x", "list-y"], &[]][number % 3];
        made.insert(0, create(store, tagged(author, tags)).await);
    }
    let ann = made.iter().find(|post| post.author.name == "list-ann").unwrap().author.id;
    for (author, tag) in [(Some(ann), None), (None, Some("list-x")), (Some(ann), Some("list-y"))] {
        let filter = Filter { author, tag: tag.map(str::to_owned) };
        let passes = |post: &&Post| {
            author.is_none_or(|id| post.author.id == id)
                && tag.is_none_or(|tag| post.tags.iter().any(|has| has == tag))
        };
        let expected: Vec<_> = made.iter().filter(passes).cloned().collect();
        assert!(!expected.is_empty());
        assert_eq!(list(store, &filter, None, 100).await, expected);
        let after = list(store, &filter, Some(expected[0].id), 1).await;
        assert_eq!(after, expected[1..2]);
    }
    let nobody = Filter { author: Some(i64::MAX), tag: None };
    let nothing = Filter { author: None, tag: Some("list-unused".to_owned()) };
    assert!(
        list(store, &nobody, None, 5).await.is_empty() && list(store, &nothing, None, 5).await.is_empty()
    );

    // A post that changes hands or tags leaves the lists that it was in.
    let moved = store.replace(made[1].id, tagged("list-cyd", &["list-z"]), None, now()).await.unwrap();
    let Conditional::Done(moved) = moved else { panic!("{moved:?}") };
    let both = Filter { author: Some(moved.author.id), tag: Some("list-z".to_owned()) };
    assert_eq!(list(store, &both, None, 5).await, std::slice::from_ref(&moved));
    let left = Filter { author: None, tag: Some("list-x".to_owned()) };
    assert!(list(store, &left, None, 100).await.iter().all(|post| post.id != moved.id));
}

async fn reads_no_column_that_is_not_asked_for(store: &Store) {
    let post = create(store, tagged("ann", &["rust"])).await;
    let page = store.list(&Filter::default(), None, 1, Columns { body: false, tags: false }).await.unwrap();
    assert_eq!(page, [Post { body: String::new(), tags: Vec::new(), ..post }]);
}

/// Of the posts that are there all the time, a walk over the pages gives each once; of the others, none twice.
async fn stays_right_while_posts_come_and_go(store: &Store) {
    let filter = Filter { author: None, tag: Some("walk".to_owned()) };
    let mut made = Vec::new();
    for _ in 0..40 {
        made.push(create(store, tagged("ann", &["walk"])).await.id);
    }
    let (stay, go): (Vec<_>, Vec<_>) = made.into_iter().partition(|id| id % 3 != 0);
    let walk = async {
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let page = list(store, &filter, before, 3).await;
            let Some(last) = page.last() else { break seen };
            before = Some(last.id);
            seen.extend(page.into_iter().map(|post| post.id));
        }
    };
    let changes = async {
        for id in go {
            create(store, tagged("ann", &["walk"])).await;
            store.delete(id, None).await.unwrap();
        }
    };
    let (seen, ()) = tokio::join!(walk, changes);
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "{seen:?}");
    let seen: HashSet<_> = seen.into_iter().collect();
    assert!(stay.iter().all(|id| seen.contains(id)), "{stay:?} of {seen:?}");
}

/// Counted where statements are prepared; the databases' own tests count what the database was really sent.
async fn asks_once_for_a_page_of_any_length(store: &Store, metrics: &StoreMetrics) {
    for number in 0..100 {
        create(store, tagged(&format!("author {number}"), &["page", &format!("tag-{number}")])).await;
    }
    for filter in [Filter::default(), Filter { author: None, tag: Some("page".to_owned()) }] {
        for limit in [1, 100] {
            let before = (metrics.sent(Query::ListPosts), metrics.sent(Query::ReadPost));
            assert_eq!(list(store, &filter, None, limit).await.len(), limit as usize);
            let after = (metrics.sent(Query::ListPosts), metrics.sent(Query::ReadPost));
            assert_eq!(after, (before.0 + 1, before.1));
        }
    }
}

async fn list(store: &Store, filter: &Filter, before: Option<i64>, limit: u32) -> Vec<Post> {
    store.list(filter, before, limit, EVERYTHING).await.unwrap()
}

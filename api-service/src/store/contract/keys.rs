//! Idempotency keys: a request that is sent again is done once.

use std::time::Duration;

use jiff::Timestamp;

use super::{now, tagged};
use crate::{
    post::{Content, Post},
    store::{Conditional, Created, IDEMPOTENCY_LIFE, Once, Store, StoreError},
};

pub(super) async fn keeps(store: &Store) {
    gives_the_first_answer_again(store).await;
    refuses_a_key_for_another_content(store).await;
    forgets_a_key_after_its_life(store).await;
    keeps_no_key_of_a_post_that_was_refused(store).await;
    does_one_of_many_at_once(store).await;
    removes_old_keys_a_few_at_a_time(store).await;
}

async fn gives_the_first_answer_again(store: &Store) {
    let content = tagged("ann", &["http", "rust"]);
    let first = new(create(store, "again", content.clone(), now()).await);
    let later = now() + Duration::from_mins(1);
    assert_eq!(create(store, "again", content.clone(), later).await, Created::Again(first.clone()));
    // As it was then, whatever became of the post.
    store.replace(first.id, tagged("bob", &[]), None, later).await.unwrap();
    assert_eq!(create(store, "again", content.clone(), later).await, Created::Again(first.clone()));
    assert_eq!(store.delete(first.id, None).await.unwrap(), Conditional::Done(()));
    assert_eq!(create(store, "again", content.clone(), later).await, Created::Again(first.clone()));
    // At once and on any connection: what answered before holds nothing up.
    for _ in 0..20 {
        assert_eq!(create(store, "again", content.clone(), later).await, Created::Again(first.clone()));
    }
    // Another key, and none, make another post.
    assert_ne!(new(create(store, "again-2", content.clone(), later).await).id, first.id);
    assert!(matches!(store.create(content, None, later).await.unwrap(), Created::New(_)));
}

async fn refuses_a_key_for_another_content(store: &Store) {
    let first = tagged("ann", &["rust"]);
    new(create(store, "other", first.clone(), now()).await);
    for other in [tagged("bob", &["rust"]), tagged("ann", &[]), Content { body: "new".to_owned(), ..first }] {
        assert_eq!(create(store, "other", other, now()).await, Created::KeyOfAnother);
    }
}

async fn forgets_a_key_after_its_life(store: &Store) {
    let start = now();
    let first = new(create(store, "old", tagged("ann", &[]), start).await);
    let just_before = start + IDEMPOTENCY_LIFE - Duration::from_micros(1);
    assert!(matches!(create(store, "old", tagged("ann", &[]), just_before).await, Created::Again(_)));
    let end = start + IDEMPOTENCY_LIFE;
    let second = new(create(store, "old", tagged("bob", &[]), end).await);
    assert_ne!(first.id, second.id);
    assert_eq!(create(store, "old", tagged("bob", &[]), end).await, Created::Again(second));
}

async fn keeps_no_key_of_a_post_that_was_refused(store: &Store) {
    let refused = Content { title: String::new(), ..tagged("ann", &[]) };
    let once = Once { key: "refused".to_owned(), request: refused.digest() };
    let outcome = store.create(refused, Some(once), now()).await;
    assert!(matches!(outcome, Err(StoreError::Rejected { .. })), "{outcome:?}");
    new(create(store, "refused", tagged("ann", &[]), now()).await);
}

async fn does_one_of_many_at_once(store: &Store) {
    let content = tagged("many", &["many-at-once"]);
    let requests = (0..12).map(|_| create(store, "many", content.clone(), now()));
    let outcomes = futures::future::join_all(requests).await;
    let made: Vec<_> = outcomes.iter().filter(|outcome| matches!(outcome, Created::New(_))).collect();
    let [Created::New(post)] = made[..] else { panic!("{outcomes:?}") };
    for outcome in &outcomes {
        let told = match outcome {
            Created::New(told) | Created::Again(told) => told == post,
            Created::InProgress => true,
            Created::KeyOfAnother => false,
        };
        assert!(told, "{outcomes:?}");
    }
    assert_eq!(create(store, "many", content, now()).await, Created::Again(post.clone()));
}

async fn removes_old_keys_a_few_at_a_time(store: &Store) {
    let long_ago = now() - IDEMPOTENCY_LIFE * 3;
    for number in 0..20 {
        // Each further back than the one before, so that none removes another.
        let at = long_ago - Duration::from_secs(number);
        new(create(store, &format!("aged {number}"), tagged("ann", &[]), at).await);
    }
    let before = store.count("idempotency_keys").await;
    new(create(store, "sweep", tagged("ann", &[]), now()).await);
    assert_eq!(store.count("idempotency_keys").await, before + 1 - 4);
    for number in 0..5 {
        new(create(store, &format!("sweep {number}"), tagged("ann", &[]), now()).await);
    }
    assert!(matches!(create(store, "sweep", tagged("ann", &[]), now()).await, Created::Again(_)));
    // Those that were kept from the other tests are all that is left besides the six sweeps.
    assert_eq!(store.count("idempotency_keys").await, before - 20 + 6);
}

async fn create(store: &Store, key: &str, content: Content, now: Timestamp) -> Created {
    let once = Once { key: key.to_owned(), request: content.digest() };
    store.create(content, Some(once), now).await.unwrap()
}

fn new(created: Created) -> Post {
    match created {
        Created::New(post) => post,
        other => panic!("{other:?}"),
    }
}

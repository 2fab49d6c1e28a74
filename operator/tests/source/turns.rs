//! Pods are asked by turns, of which no resource takes all.

use std::time::{Duration, Instant};

use plimsoll_operator::source::credentials::Credentials;
use plimsoll_operator::source::pods::Pods;
use plimsoll_operator::source::target::Target;
use plimsoll_operator::source::{Asked, MetricsSource as _};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::pod::{Pod, Says};
use crate::world::{app, exposition, target};

/// As many as the operator has.
const TURNS: usize = 512;

#[tokio::test]
async fn one_resource_with_many_silent_pods_leaves_turns_to_others() {
    let silent = Pod::start("silent", Says::Nothing).await;
    let uid = |place| format!("uid of silent pod {place}");
    let silent: Vec<Target> = (0..TURNS).map(|place| Target { uid: uid(place), ..target(&silent) }).collect();
    let well = Pod::start("well", Says::Text(exposition(&[("/api", "200", ["1", "2", "3"])]))).await;
    let well = [target(&well)];
    let (app, credentials, turns) = (app(&json!({})), Credentials::default(), Semaphore::new(TURNS));
    let pods = Pods { turns: &turns };
    let asked = |targets| Asked { app: &app, deployment: "posts", targets, credentials: &credentials };
    let others = async {
        // Those before have taken what they get.
        while turns.available_permits() == TURNS {
            tokio::task::yield_now().await;
        }
        let began = Instant::now();
        (pods.read(asked(&well)).await.unwrap(), began.elapsed())
    };
    let (silent, (others, waited)) = tokio::join!(pods.read(asked(&silent)), others);
    assert!(others[0].sample.reading.is_ok(), "{others:?}");
    assert!(waited < Duration::from_secs(1), "it waited until the silent ones were given up: {waited:?}");
    let silent = silent.unwrap();
    assert_eq!(silent.len(), TURNS);
    assert!(silent.iter().all(|reading| reading.sample.reading.is_err()));
}

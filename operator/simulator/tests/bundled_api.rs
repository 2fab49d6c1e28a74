//! The simulated pod refuses as the bundled API does.

use std::time::{Duration, Instant};

use plimsoll_api::overload;
use plimsoll_simulator::gate::Gate;
use plimsoll_simulator::service::Patience;
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_simulated_pod_refuses_what_a_real_one_refuses(
        promise in 1_u64..1000,
        waits in proptest::collection::vec((0_u64..300, 0_u64..1000), 1..300),
    ) {
        let promise = Duration::from_millis(promise);
        let began = Instant::now();
        let mut real = overload::Controller::new(overload::Patience::for_promises(&[promise]));
        let mut simulated = Gate::new(Patience::of_bundled_api(promise, 0.0));
        let mut now = Duration::ZERO;
        for (gap, age) in waits {
            now += Duration::from_millis(gap);
            let age = Duration::from_millis(age);
            prop_assert_eq!(simulated.admits(now, age), real.admit(began + now, age), "at {:?}", now);
        }
    }

    #[test]
    fn its_patience_is_the_real_ones(promise in 1_u64..5000) {
        let promise = Duration::from_millis(promise);
        let real = overload::Patience::for_promises(&[promise]);
        let simulated = Patience::of_bundled_api(promise, 0.0);
        prop_assert_eq!((simulated.target, simulated.interval), (real.target, real.interval));
    }
}

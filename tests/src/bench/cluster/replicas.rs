//! Replicas over the time of a load: what was wanted when, in how many moves, and what it cost.

use serde::{Deserialize, Serialize};

/// Replicas from a moment on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Seconds since the load began; below 0 for what was there before it.
    pub second: f64,
    /// Of the Deployment's spec.
    pub wanted: u32,
    /// Of the Deployment's status: replicas that are Ready.
    pub ready: u32,
}

/// Changes of a load's replicas, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Replicas(pub Vec<Change>);

/// A change of the wanted replicas.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// Seconds since the load began.
    pub second: f64,
    /// Before.
    pub from: u32,
    /// After.
    pub to: u32,
}

impl Replicas {
    /// As they were at a moment, in seconds; those of the first change before it.
    pub fn at(&self, second: f64) -> Option<Change> {
        let after = self.0.partition_point(|change| change.second <= second);
        self.0.get(after.saturating_sub(1)).copied()
    }

    /// Changes of the wanted replicas from `from` on and before `until`, in seconds.
    pub fn moves(&self, from: f64, until: f64) -> Vec<Move> {
        let pairs = self.0.windows(2).map(|pair| (pair[0].wanted, pair[1]));
        pairs
            .filter(|(before, change)| change.wanted != *before && (from..until).contains(&change.second))
            .map(|(from, change)| Move { second: change.second, from, to: change.wanted })
            .collect()
    }

    /// Seconds from `from` until at least `enough` replicas were wanted, and in how many moves; absent when they never were.
    pub fn wanted(&self, enough: u32, from: f64) -> Option<(f64, usize)> {
        if self.at(from)?.wanted >= enough {
            return Some((0.0, 0));
        }
        let moves = self.moves(from, f64::INFINITY);
        let reached = moves.iter().position(|to| to.to >= enough)?;
        Some((moves[reached].second - from, reached + 1))
    }

    /// Seconds from `from` until at least `enough` replicas were Ready; absent when they never were.
    pub fn ready(&self, enough: u32, from: f64) -> Option<f64> {
        if self.at(from)?.ready >= enough {
            return Some(0.0);
        }
        let change = self.0.iter().find(|change| change.second >= from && change.ready >= enough)?;
        Some(change.second - from)
    }

    /// Wanted replicas, summed over the seconds from `from` until `until`.
    pub fn replica_seconds(&self, from: f64, until: f64) -> f64 {
        let ends = self.0.iter().skip(1).map(|change| change.second).chain([f64::INFINITY]);
        self.0
            .iter()
            .zip(ends)
            .enumerate()
            .map(|(index, (change, end))| {
                // Before the first change it was as there.
                let begin = if index == 0 { f64::NEG_INFINITY } else { change.second };
                f64::from(change.wanted) * (end.min(until) - begin.max(from)).max(0.0)
            })
            .sum()
    }
}

/// Moves that go the other way than the one before.
pub fn direction_changes(moves: &[Move]) -> usize {
    moves.windows(2).filter(|pair| (pair[0].to > pair[0].from) != (pair[1].to > pair[1].from)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(changes: &[(f64, u32, u32)]) -> Replicas {
        let change = |&(second, wanted, ready): &(f64, u32, u32)| Change { second, wanted, ready };
        Replicas(changes.iter().map(change).collect())
    }

    fn stairs() -> Replicas {
        replicas(&[
            (-2.0, 2, 2),
            (65.0, 4, 2),
            (67.0, 4, 4),
            (80.0, 6, 4),
            (82.0, 6, 6),
            (100.0, 5, 6),
            (110.0, 6, 5),
        ])
    }

    #[test]
    fn enough_is_wanted_when_the_move_that_reaches_it_is_made() {
        assert_eq!(stairs().wanted(4, 60.0), Some((5.0, 1)));
        assert_eq!(stairs().wanted(5, 60.0), Some((20.0, 2)));
        assert_eq!(stairs().wanted(2, 60.0), Some((0.0, 0)));
        assert_eq!(stairs().wanted(7, 60.0), None);
        assert_eq!(Replicas::default().wanted(1, 60.0), None);
    }

    #[test]
    fn ready_comes_after_wanted() {
        assert_eq!(stairs().ready(4, 60.0), Some(7.0));
        assert_eq!(stairs().ready(2, 60.0), Some(0.0));
        assert_eq!(stairs().ready(9, 60.0), None);
    }

    #[test]
    fn only_changes_of_what_is_wanted_are_moves() {
        let moves = stairs().moves(60.0, 360.0);
        assert_eq!(
            moves.iter().map(|to| (to.from, to.to)).collect::<Vec<_>>(),
            [(2, 4), (4, 6), (6, 5), (5, 6)]
        );
        assert_eq!(direction_changes(&moves), 2);
        assert_eq!(stairs().moves(0.0, 60.0), []);
        assert_eq!(direction_changes(&stairs().moves(60.0, 100.0)), 0);
    }

    #[test]
    fn replica_seconds_are_those_of_the_span_alone() {
        assert!((stairs().replica_seconds(0.0, 60.0) - 120.0).abs() < 1e-9);
        // 5 s of 2, 15 s of 4, 10 s of 6.
        assert!((stairs().replica_seconds(60.0, 90.0) - (10.0 + 60.0 + 60.0)).abs() < 1e-9);
        assert!((replicas(&[(3.0, 4, 4)]).replica_seconds(0.0, 10.0) - 40.0).abs() < 1e-9);
        assert!(Replicas::default().replica_seconds(0.0, 10.0).abs() < 1e-9);
    }
}

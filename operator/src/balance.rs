//! Who should hold which shard: a pure function of what one process sees of the Leases. It writes nothing.
//!
//! There is no list of members. Those who hold a shard are seen by it, and one that holds too few asks for a shard by
//! its name on the Lease of one that holds more. The asked one gives a shard up, and it is kept for the asker.
//!
//! Guarantees: with the same view for all, everybody's count comes to lie within one of everybody else's, and then
//! nothing moves. A shard that nobody should take is taken all the same once it has been [`NEGLECTED`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::shards::fnv1a;

/// A free shard is kept this long for the one who asked for it, and left this long to those who hold fewer.
pub const NEGLECTED: Duration = Duration::from_secs(8);

/// A shard as this process sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// Who holds it, as far as is known here; absent if nobody does, or whoever did is gone.
    pub holder: Option<String>,
    /// It is this process', which is giving it up.
    pub leaving: bool,
    /// Who has asked for it.
    pub wanted_by: Option<String>,
    /// How long it has been seen here to have no holder.
    pub free_for: Duration,
}

/// What to do about a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// It is ours; keep it.
    Renew,
    /// Nobody's; take it.
    Take,
    /// Ask its holder for it.
    Ask,
    /// It is ours; let the asker have it.
    Yield,
    /// Not ours to touch.
    Leave,
}

/// What the process `me` is to do about each shard, in the order of `seats`. With `closed`, it takes no more and asks for
/// none: it is about to end, or another division into shards is still in force.
pub fn moves(me: &str, seats: &[Seat], closed: bool) -> Vec<Move> {
    let mut counts = counts(me, seats);
    let fair = seats.len().div_ceil(counts.len());
    let mut moves: Vec<Move> = seats.iter().map(|seat| kept(me, seat, &mut counts)).collect();
    if closed {
        return moves;
    }
    let mut own = counts.get(me).copied().unwrap_or(0);
    // Each process begins elsewhere, so that two rarely reach for the same.
    let first = (fnv1a(me.bytes()) % seats.len().max(1) as u64) as usize;
    for index in (first..seats.len()).chain(0..first) {
        let seat = &seats[index];
        let kept_for_us = seat.wanted_by.as_deref() == Some(me);
        let kept_for_other = seat.wanted_by.is_some() && !kept_for_us;
        let neglected = seat.free_for >= NEGLECTED;
        if seat.holder.is_none() && (neglected || kept_for_us || (own < fair && !kept_for_other)) {
            moves[index] = Move::Take;
            own += 1;
        }
    }
    ask(me, seats, own, &counts, &mut moves);
    moves
}

/// How many shards everybody has, or is about to have. Who has asked in vain so far is known too.
fn counts<'a>(me: &'a str, seats: &'a [Seat]) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::from([(me, 0)]);
    for seat in seats {
        let asker = seat.wanted_by.as_deref();
        let free = seat.leaving || seat.holder.is_none();
        // A shard that was given up for an asker counts as the asker's, unless the asker does not come.
        let owner = if free { asker.filter(|_| seat.free_for < NEGLECTED) } else { seat.holder.as_deref() };
        if let Some(owner) = owner {
            *counts.entry(owner).or_default() += 1;
        }
        if let Some(asker) = asker.filter(|_| !free) {
            counts.entry(asker).or_default();
        }
    }
    counts
}

fn kept<'a>(me: &str, seat: &'a Seat, counts: &mut BTreeMap<&'a str, usize>) -> Move {
    if seat.leaving || seat.holder.as_deref() != Some(me) {
        return Move::Leave;
    }
    let own = counts.get(me).copied().unwrap_or(0);
    match seat.wanted_by.as_deref().filter(|asker| *asker != me) {
        Some(asker) if own >= counts.get(asker).copied().unwrap_or(0) + 2 => {
            *counts.entry(asker).or_default() += 1;
            if let Some(own) = counts.get_mut(me) {
                *own -= 1;
            }
            Move::Yield
        }
        _ => Move::Renew,
    }
}

/// Asks the one who holds most for half of the difference.
fn ask(me: &str, seats: &[Seat], own: usize, counts: &BTreeMap<&str, usize>, moves: &mut [Move]) {
    let most = counts.iter().filter(|(holder, _)| **holder != me).max_by_key(|(_, count)| **count);
    let Some((holder, count)) = most.filter(|(_, count)| **count >= own + 2) else { return };
    let asked = seats.iter().filter(|seat| seat.holder.is_some() && seat.wanted_by.as_deref() == Some(me));
    let still = ((count - own) / 2).saturating_sub(asked.count());
    let theirs = (0..seats.len()).rev().filter(|index| {
        seats[*index].holder.as_deref() == Some(*holder) && seats[*index].wanted_by.is_none()
    });
    for index in theirs.take(still) {
        moves[index] = Move::Ask;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(holder: &str) -> Seat {
        Seat { holder: Some(holder.into()), ..Seat::default() }
    }

    fn wanted(holder: &str, asker: &str) -> Seat {
        Seat { wanted_by: Some(asker.into()), ..held(holder) }
    }

    #[test]
    fn the_first_takes_all() {
        assert_eq!(moves("a", &vec![Seat::default(); 3], false), [Move::Take; 3]);
    }

    #[test]
    fn a_standby_of_one_shard_waits() {
        assert_eq!(moves("b", &[held("a")], false), [Move::Leave]);
    }

    #[test]
    fn a_newcomer_asks_for_half() {
        let seats = vec![held("a"); 4];
        assert_eq!(moves("b", &seats, false), [Move::Leave, Move::Leave, Move::Ask, Move::Ask]);
    }

    #[test]
    fn the_asked_one_gives_until_they_are_even() {
        let seats = [wanted("a", "b"), wanted("a", "b"), wanted("a", "b"), held("a")];
        assert_eq!(moves("a", &seats, false), [Move::Yield, Move::Yield, Move::Renew, Move::Renew]);
    }

    #[test]
    fn what_was_given_up_for_another_is_left_to_it_for_a_while() {
        let mut free = Seat { wanted_by: Some("b".into()), ..Seat::default() };
        let seats = |free: &Seat| vec![held("a"), held("a"), free.clone(), held("c")];
        assert_eq!(moves("a", &seats(&free), false)[2], Move::Leave);
        assert_eq!(moves("b", &seats(&free), false)[2], Move::Take);
        free.free_for = NEGLECTED;
        assert_eq!(moves("a", &seats(&free), false)[2], Move::Take);
    }

    #[test]
    fn nothing_is_taken_while_it_may_not_be() {
        assert_eq!(
            moves("a", &[Seat::default(), held("a"), held("b")], true),
            [Move::Leave, Move::Renew, Move::Leave]
        );
    }

    /// The Leases, and processes that look at them in turns. Time passes by two seconds a turn of everybody.
    struct Model {
        seats: Vec<Seat>,
        members: Vec<String>,
    }

    impl Model {
        /// One process looks and acts. Returns whether anything moved.
        fn turn(&mut self, me: &str) -> bool {
            let mut moved = false;
            for (index, what) in moves(me, &self.seats, false).into_iter().enumerate() {
                let seat = &mut self.seats[index];
                moved |= !matches!(what, Move::Renew | Move::Leave);
                match what {
                    Move::Renew => seat.wanted_by = None,
                    Move::Take => *seat = held(me),
                    Move::Ask => seat.wanted_by = Some(me.into()),
                    Move::Yield => seat.holder = None,
                    Move::Leave => {}
                }
            }
            moved
        }

        fn settle(&mut self, order: &mut impl FnMut(usize) -> usize) {
            for _ in 0..60 {
                let mut moved = false;
                for _ in 0..self.members.len() * 2 {
                    let me = self.members[order(self.members.len())].clone();
                    moved |= self.turn(&me);
                }
                for me in self.members.clone() {
                    moved |= self.turn(&me);
                }
                if !moved {
                    return;
                }
                for seat in self.seats.iter_mut().filter(|seat| seat.holder.is_none()) {
                    seat.free_for += Duration::from_secs(2);
                }
            }
            panic!("it does not come to rest: {:?}", self.seats);
        }

        fn assert_balanced(&self) {
            assert!(self.seats.iter().all(|seat| seat.holder.is_some()), "{:?}", self.seats);
            let of = |me: &String| self.seats.iter().filter(|seat| seat.holder.as_ref() == Some(me)).count();
            let counts: Vec<usize> = self.members.iter().map(of).collect();
            assert_eq!(counts.iter().sum::<usize>(), self.seats.len(), "the dead hold something");
            let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
            assert!(spread <= 1, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn comes_to_rest_in_balance_as_processes_come_and_go(
            shards in 1_usize..=32, joins in 1_usize..=6, deaths in 0_usize..=3, seed in any::<u64>(),
        ) {
            let mut random = seed | 1;
            let mut order = move |below: usize| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) as usize % below
            };
            let mut model = Model { seats: vec![Seat::default(); shards], members: Vec::new() };
            for number in 0..joins {
                model.members.push(format!("operator-{number}"));
                model.settle(&mut order);
                model.assert_balanced();
            }
            for _ in 0..deaths.min(joins - 1) {
                let dead = model.members.remove(order(model.members.len()));
                // Its Leases have run out; what it had asked for is still written on others'.
                for seat in model.seats.iter_mut().filter(|seat| seat.holder.as_ref() == Some(&dead)) {
                    seat.holder = None;
                }
                model.settle(&mut order);
                model.assert_balanced();
            }
        }
    }
}

//! Which shard an object belongs to, and the fence of each shard. Who holds a shard is decided in `balance.rs`.

use std::sync::Arc;

use crate::fence::Fence;

/// Most shards: each is a Lease that is renewed every two seconds.
pub const SHARDS_MAX: u16 = 32;

/// The fences of all shards.
#[derive(Clone, Debug)]
pub struct Shards(Arc<[Arc<Fence>]>);

impl Shards {
    /// `count` shards, all closed; at least one.
    pub fn new(count: u16) -> Self {
        Self((0..count.max(1)).map(|_| Arc::default()).collect())
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.0.len() as u16
    }

    /// The fence of a shard.
    ///
    /// # Panics
    /// When there is no such shard.
    pub fn fence(&self, shard: u16) -> &Arc<Fence> {
        &self.0[usize::from(shard)]
    }

    /// The fence that every write of an object passes.
    pub fn of(&self, namespace: &str, name: &str) -> &Arc<Fence> {
        self.fence(shard_of(namespace, name, self.count()))
    }
}

/// One shard with this fence.
impl From<Arc<Fence>> for Shards {
    fn from(fence: Arc<Fence>) -> Self {
        Self(Arc::new([fence]))
    }
}

/// The shard of an object, from 0 to below `count`. It is the same in every process and every version, for two that
/// disagree would both write: FNV-1a over the name, whose halves are folded.
pub fn shard_of(namespace: &str, name: &str, count: u16) -> u16 {
    let hash = fnv1a(namespace.bytes().chain([b'/']).chain(name.bytes()));
    ((hash ^ (hash >> 32)) % u64::from(count.max(1))) as u16
}

/// The hash of Fowler, Noll and Vo, in its second form, of 64 bits.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_of_an_object_never_changes_with_the_version() {
        assert_eq!(fnv1a(b"foobar".iter().copied()), 0x8594_4171_f739_67e8, "the published test vector");
        let shards = [("shop", "posts"), ("shop", "carts"), ("team-a", "posts"), ("", "")];
        assert_eq!(shards.map(|(namespace, name)| shard_of(namespace, name, 8)), [3, 7, 1, 2]);
    }

    #[test]
    fn objects_spread_evenly() {
        let mut counts = [0; 8];
        for number in 0..8000 {
            counts[usize::from(shard_of(&format!("team-{}", number % 40), &format!("api-{number}"), 8))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn one_shard_holds_everything() {
        assert_eq!(shard_of("shop", "posts", 1), 0);
        let fence = Arc::new(Fence::default());
        assert!(Arc::ptr_eq(Shards::from(fence.clone()).of("any", "thing"), &fence));
    }
}

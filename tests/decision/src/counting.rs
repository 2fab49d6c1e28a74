//! Counts what is allocated. It is the operator's allocator otherwise.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait; every call is handed on as it came")]

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicU64, Ordering};

use mimalloc::MiMalloc;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// The operator's allocator, with a count.
#[derive(Debug)]
pub struct Counting;

/// What was allocated; memory that is grown in place counts as allocated anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// How often.
    pub count: u64,
    /// How much, whether or not it has been given back since.
    pub bytes: u64,
}

impl Allocated {
    /// Since the program started; nothing unless [`Counting`] is its allocator.
    pub fn so_far() -> Self {
        Self { count: ALLOCATIONS.load(Ordering::Relaxed), bytes: BYTES.load(Ordering::Relaxed) }
    }

    /// Since then.
    pub fn since(before: Self) -> Self {
        let now = Self::so_far();
        Self { count: now.count - before.count, bytes: now.bytes - before.bytes }
    }
}

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

// SAFETY: all is done by the operator's allocator, to which pointers and layouts are handed as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `pointer` came from the operator's allocator.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps `realloc`'s contract, and `pointer` came from the operator's allocator.
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }
}

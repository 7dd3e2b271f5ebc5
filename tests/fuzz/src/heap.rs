//! How much memory one piece of work asks for at once: a length that an input announces must not be believed.

// An allocator cannot be written otherwise; this one counts and hands on.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(size: usize) {
    // A thread that ends has nothing to measure any more.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller's promises are the same.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// What is free whatever the input: tables, buffers, the text of an error.
const FREE: usize = 64 << 10;
/// What a byte of input may cost at most: a vector of parsed things doubles as it grows.
const EACH: usize = 128;

/// Does a piece of work on an input of this length, and makes sure that no single allocation of this thread was out of proportion to it.
///
/// # Panics
/// When one was.
pub fn bounded<T>(length: usize, work: impl FnOnce() -> T) -> T {
    LARGEST.set(0);
    let done = work();
    let (largest, allowed) = (LARGEST.get(), FREE + EACH * length);
    assert!(largest <= allowed, "{largest} bytes asked for at once, for an input of {length}");
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_is_believed_is_noticed() {
        let announced = |length: usize| drop(std::hint::black_box(Vec::<u8>::with_capacity(length)));
        bounded(5, || announced(1000));
        std::panic::catch_unwind(|| bounded(5, || announced(1 << 20))).unwrap_err();
    }
}

//! What the fuzz targets of all crates share: where their seeds are, how seeds are mutated, and how much memory a parser
//! may ask for.
//!
//! A target lies beside the parser that it tries, and is an ordinary test whose name begins with `fuzz_`: every kept seed is
//! replayed, then a bounded number of others is tried. `make fuzz` tries them for as long as wanted.

mod heap;
mod mutate;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use bolero;
use bolero::{BorrowedInput, ByteSliceGenerator, DefaultEngine, TestTarget};
pub use heap::bounded;

/// Inputs of a short run, unless `BOLERO_RANDOM_ITERATIONS` says otherwise.
const INPUTS: usize = 1000;
/// Longest input that is drawn at random.
const LENGTH: usize = 512;

/// A target of bytes, as `bolero::check!` makes it.
pub type Target = TestTarget<ByteSliceGenerator, DefaultEngine, BorrowedInput>;

/// Tries a parser: `fuzz!("lsn", |bytes| { … })`. The seeds lie in `__fuzz__/lsn/corpus` beside the source file.
#[macro_export]
macro_rules! fuzz {
    ($name:literal, $try:expr) => {
        $crate::fuzz!($name, 1, $try)
    };
    ($name:literal, $slower:literal, $try:expr) => {
        $crate::run(
            $crate::bolero::check!(name = $name),
            &$crate::corpus(env!("CARGO_MANIFEST_DIR"), file!(), $name),
            $slower,
            $try,
        )
    };
}

/// Where the seeds of a target lie.
///
/// # Panics
/// When the source file is not found.
#[must_use]
pub fn corpus(manifest: &str, file: &str, name: &str) -> PathBuf {
    let found = Path::new(manifest).ancestors().map(|above| above.join(file)).find(|path| path.exists());
    let Some(source) = found else { panic!("{file} is not below {manifest} or a directory above it") };
    source.with_file_name("__fuzz__").join(name).join("corpus")
}

/// Tries every input as it is, and as a recipe by which a seed is mutated. A target that is so many times slower than others
/// is tried as many times less often.
///
/// # Panics
/// When the target has no seeds, or one of its assertions fails.
pub fn run(target: Target, corpus: &Path, slower: usize, attempt: impl Fn(&[u8])) {
    let seeds = seeds(corpus);
    assert!(!seeds.is_empty(), "{} holds no seeds", corpus.display());
    let (begun, tried, smallest) = (Instant::now(), Cell::new(0_u64), Cell::new(usize::MAX));
    let attempt = |bytes: &[u8]| {
        tried.set(tried.get() + 1);
        attempt(bytes);
    };
    // What a failed attempt leaves behind is not looked at again.
    let (attempt, smallest) = (AssertUnwindSafe(attempt), AssertUnwindSafe(smallest));
    target.with_iterations((INPUTS / slower).max(1)).with_max_len(LENGTH).for_each(|input: &[u8]| {
        let (attempt, smallest) = (&attempt, &smallest);
        (attempt.0)(input);
        shown(&mutate::mutated(&seeds, input), smallest, &attempt.0);
    });
    eprintln!("{}: {} inputs in {:?}", corpus.display(), tried.get(), begun.elapsed());
}

/// bolero shows the recipe of an input that failed; what it made is what belongs into the corpus. It looks for smaller ones
/// too, so only those that are smaller than all before are shown.
fn shown(input: &[u8], smallest: &Cell<usize>, attempt: &dyn Fn(&[u8])) {
    let outcome = catch_unwind(AssertUnwindSafe(|| attempt(input)));
    if let Err(panic) = outcome {
        if input.len() < smallest.get() {
            smallest.set(input.len());
            eprintln!("a mutated seed that fails: b\"{}\"", input.escape_ascii());
        }
        resume_unwind(panic);
    }
}

/// The same bytes with one bit turned, which one is up to `choice`; `None` for no bytes.
#[must_use]
pub fn flipped(bytes: &[u8], choice: &[u8]) -> Option<Vec<u8>> {
    // FNV-1a: every byte of the choice counts.
    let drawn = choice.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let at = usize::try_from(drawn >> 8).unwrap_or(0).checked_rem(bytes.len())?;
    let mut damaged = bytes.to_vec();
    damaged[at] ^= 1 << (drawn % 8);
    Some(damaged)
}

fn seeds(corpus: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(corpus) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    // The order in which a directory lists them is not the same everywhere.
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

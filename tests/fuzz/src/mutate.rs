//! Seeds, changed by a recipe: coverage needs inputs that are nearly right, which bytes drawn at random never are.

/// Longest mutated input: seeds double when pieces of them are repeated.
const LONGEST: usize = 64 << 10;

/// Bytes that parsers stumble over.
const AWKWARD: [&[u8]; 16] = [
    b"\0",
    b"\n",
    b"\r\n",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"-1",
    b"0",
    b"18446744073709551615",
    b"4294967296",
    b"\"",
    b"'",
    b"=",
    b":",
    b" ",
    "é".as_bytes(),
    b"\x80\0\0\0",
];

/// Numbers drawn from the recipe; zeros behind its end.
struct Recipe<'a>(&'a [u8]);

impl Recipe<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below a bound, 0 for none.
    fn below(&mut self, bound: usize) -> usize {
        let drawn = usize::from(self.byte()) << 8 | usize::from(self.byte());
        drawn.checked_rem(bound).unwrap_or(0)
    }
}

/// A seed of the recipe's choice, with as many changes as it has steps.
pub(crate) fn mutated(seeds: &[Vec<u8>], recipe: &[u8]) -> Vec<u8> {
    let mut recipe = Recipe(recipe);
    let mut made = seeds[recipe.below(seeds.len())].clone();
    // Mostly few: what is nearly right goes furthest.
    let steps = 1 + usize::from(recipe.byte() % 4);
    for _ in 0..steps {
        if recipe.0.is_empty() {
            break;
        }
        change(&mut made, seeds, &mut recipe);
    }
    made.truncate(LONGEST);
    made
}

fn change(made: &mut Vec<u8>, seeds: &[Vec<u8>], recipe: &mut Recipe<'_>) {
    let kind = recipe.byte() % 8;
    let at = recipe.below(made.len() + 1);
    let upto = (at + recipe.below(32) + 1).min(made.len());
    match kind {
        0 => {
            if let Some(byte) = made.get_mut(at) {
                *byte ^= 1 << (recipe.byte() % 8);
            }
        }
        1 => {
            if let Some(byte) = made.get_mut(at) {
                *byte = recipe.byte();
            }
        }
        2 => made.truncate(at),
        3 => drop(made.drain(at..upto)),
        4 => {
            let piece = made[at..upto].to_vec();
            let to = recipe.below(made.len() + 1);
            made.splice(to..to, piece);
        }
        5 => {
            let word = AWKWARD[recipe.below(AWKWARD.len())];
            made.splice(at..at, word.iter().copied());
        }
        6 => {
            let word = AWKWARD[recipe.below(AWKWARD.len())];
            made.splice(at..upto, word.iter().copied());
        }
        _ => {
            let other = &seeds[recipe.below(seeds.len())];
            let from = recipe.below(other.len() + 1);
            made.splice(at.., other[from..].iter().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_always_makes_the_same_and_an_empty_one_changes_nothing() {
        let seeds = [b"one".to_vec(), b"another".to_vec()];
        assert_eq!(mutated(&seeds, &[]), b"one");
        let recipe: Vec<u8> = (0..64).collect();
        assert_eq!(mutated(&seeds, &recipe), mutated(&seeds, &recipe));
        // Seed, steps, kind, place, what is put there.
        let recipes = (0..=255).map(|n: u8| [0, n & 1, 0, n >> 1, 0, n >> 4, n, n, n]);
        let made: std::collections::BTreeSet<_> = recipes.map(|recipe| mutated(&seeds, &recipe)).collect();
        assert!(made.len() > 50, "only {} different ones", made.len());
    }
}

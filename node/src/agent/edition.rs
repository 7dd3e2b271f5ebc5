//! Which edition this agent says that its build has (`proto/src/edition.rs`): what others may propose follows from it.
//!
//! A build made for debugging can be told to say less, so that a mesh of two editions can be tried with one build. Saying less only
//! holds commands back, and nobody can say more than is so. It changes nothing of what this agent can apply.

use mesh_proto::edition::EDITION;

/// The variable that a build made for debugging looks at.
pub const VARIABLE: &str = "MESH_SAYS_EDITION";

/// The edition to say.
#[must_use]
pub fn stated() -> u32 {
    let said = if cfg!(debug_assertions) { std::env::var(VARIABLE).ok() } else { None };
    at_most(said.as_deref())
}

fn at_most(said: Option<&str>) -> u32 {
    said.and_then(|text| text.parse().ok()).map_or(EDITION, |said: u32| said.min(EDITION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edition_can_be_said_to_be_older_and_never_newer() {
        assert_eq!(at_most(None), EDITION);
        assert_eq!(at_most(Some("1")), 1);
        assert_eq!(at_most(Some("99")), EDITION);
        assert_eq!(at_most(Some("newest")), EDITION);
    }
}

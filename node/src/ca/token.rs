//! The token that a new host joins with: for whom it is, until when, by which authority, and a secret. Text that a person copies.
//!
//! Whoever has it can get the certificate that it is for, once. So it is never an argument of a command, never in a log or an
//! audit, and the authority keeps a digest of the secret alone. Nothing in it is believed by the authority but the secret; the
//! other words are for the host that joins, which learns from them whom it may send the secret to.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

use crate::tls::Identity;

/// How every token begins, so that one in a wrong place is noticed.
const PREFIX: &str = "mesh-token.";
/// The layout. Another one has another number here.
const LAYOUT: u8 = 1;
/// Bytes of the secret: nobody guesses it.
pub const SECRET: usize = 16;
/// Bytes of the digest of the authority's certificate.
const FINGERPRINT: usize = 32;
/// Bytes that show whether it was copied whole.
const CHECK: usize = 4;
/// Longest text that is looked at.
pub const LONGEST: usize = 400;

/// What a token says.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Whom it is for: an agent or a guard.
    pub identity: Identity,
    /// Until when, in seconds since 1970.
    pub expires: u64,
    /// SHA-256 of the authority's certificate.
    pub fingerprint: [u8; FINGERPRINT],
    /// What proves the right to a certificate.
    pub secret: [u8; SECRET],
}

/// Shows no secret.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("identity", &self.identity)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Why a text is no token. It never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// Nothing is there.
    #[error("there is no token; it is what `mesh ca token` printed, one line that begins with {PREFIX}")]
    Empty,
    /// It begins otherwise.
    #[error(
        "this is no token: it does not begin with {PREFIX}; copy the whole line that `mesh ca token` printed"
    )]
    Prefix,
    /// It is not whole, or was changed.
    #[error("the token was not copied whole; copy the whole line that `mesh ca token` printed")]
    Damaged,
    /// A newer build made it.
    #[error(
        "a newer mesh made this token; install the release here that the authority's host has (`mesh --version`)"
    )]
    Newer,
}

impl Token {
    /// The text.
    #[must_use]
    pub fn text(&self) -> String {
        let (kind, name) = kind(&self.identity);
        let mut bytes = vec![LAYOUT, kind, u8::try_from(name.len()).unwrap_or(u8::MAX)];
        bytes.extend(name.as_bytes());
        bytes.extend(self.expires.to_be_bytes());
        bytes.extend(self.fingerprint);
        bytes.extend(self.secret);
        let check = check(&bytes);
        bytes.extend(check);
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// Reads a text.
    ///
    /// # Errors
    /// [`NoToken`].
    pub fn parse(text: &str) -> Result<Self, NoToken> {
        let text = text.trim();
        if text.is_empty() {
            return Err(NoToken::Empty);
        }
        if text.len() > LONGEST {
            return Err(NoToken::Damaged);
        }
        let text = text.strip_prefix(PREFIX).ok_or(NoToken::Prefix)?;
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| NoToken::Damaged)?;
        let whole = bytes.len().checked_sub(CHECK).and_then(|end| bytes.split_at_checked(end));
        let (bytes, sum) = whole.ok_or(NoToken::Damaged)?;
        if check(bytes) != sum {
            return Err(NoToken::Damaged);
        }
        let (layout, rest) = bytes.split_first().ok_or(NoToken::Damaged)?;
        if *layout != LAYOUT {
            return Err(if *layout > LAYOUT { NoToken::Newer } else { NoToken::Damaged });
        }
        Self::fields(rest).ok_or(NoToken::Damaged)
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        let ([kind, length], rest) = bytes.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (expires, rest) = rest.split_first_chunk::<8>()?;
        let (fingerprint, rest) = rest.split_first_chunk::<FINGERPRINT>()?;
        let (secret, rest) = rest.split_first_chunk::<SECRET>()?;
        let name = std::str::from_utf8(name).ok()?;
        let identity = match kind {
            1 => Identity::Agent(name.parse().ok()?),
            2 => Identity::Guard(name.parse().ok()?),
            _ => return None,
        };
        rest.is_empty().then_some(Self {
            identity,
            expires: u64::from_be_bytes(*expires),
            fingerprint: *fingerprint,
            secret: *secret,
        })
    }

    /// The secret as it is sent.
    #[must_use]
    pub fn secret_text(&self) -> String {
        HEXLOWER.encode(&self.secret)
    }
}

/// Only agents and guards join: a token of anybody else is none that is read.
fn kind(identity: &Identity) -> (u8, &str) {
    match identity {
        Identity::Agent(name) => (1, name.as_str()),
        Identity::Guard(name) => (2, name.as_str()),
        Identity::Operator(name, _) => (0, name.as_str()),
        Identity::Authority => (0, ""),
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut sum = [0; CHECK];
    sum.copy_from_slice(&digest.as_ref()[..CHECK]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(identity: Identity) -> Token {
        Token {
            identity,
            expires: 1_800_000_000,
            fingerprint: [7; FINGERPRINT],
            secret: *b"a secret of 16 b",
        }
    }

    #[test]
    fn what_is_written_is_read_and_a_secret_is_not_shown() {
        for identity in
            [Identity::Agent("north".parse().unwrap()), Identity::Guard("a".repeat(32).parse().unwrap())]
        {
            let token = token(identity);
            let text = token.text();
            assert!(text.len() < LONGEST && text.starts_with("mesh-token."), "{text}");
            assert_eq!(Token::parse(&format!("  {text}\n")), Ok(token.clone()));
            let shown = format!("{token:?}");
            assert!(!shown.contains("secret") && !shown.contains(&token.secret_text()), "{shown}");
        }
        assert_eq!(
            token(Identity::Agent("a".parse().unwrap())).secret_text(),
            "6120736563726574206f662031362062"
        );
    }

    #[test]
    fn what_is_no_token_is_said_to_be_none_without_being_repeated() {
        let text = token(Identity::Agent("north".parse().unwrap())).text();
        assert_eq!(Token::parse(" \n"), Err(NoToken::Empty));
        assert_eq!(Token::parse("hunter2"), Err(NoToken::Prefix));
        assert!(!NoToken::Prefix.to_string().contains("hunter2"));
        for end in PREFIX.len()..text.len() {
            assert_eq!(Token::parse(&text[..end]), Err(NoToken::Damaged), "cut after {end}");
        }
        assert_eq!(Token::parse(&format!("{text}AAAA")), Err(NoToken::Damaged));
        assert_eq!(Token::parse(&"x".repeat(LONGEST + 1)), Err(NoToken::Damaged));
        // A token for a person, or for the authority, is made by nobody.
        let operator = Identity::Operator("ada".parse().unwrap(), mesh_proto::access::Role::Admin);
        for identity in [operator, Identity::Authority] {
            assert_eq!(Token::parse(&token(identity).text()), Err(NoToken::Damaged));
        }
        let mut newer = vec![LAYOUT + 1, 1, 2, 3];
        newer.extend(check(&newer));
        assert_eq!(Token::parse(&format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&newer))), Err(NoToken::Newer));
    }

    #[test]
    fn fuzz_tokens() {
        mesh_fuzz::fuzz!("tokens", |bytes| {
            // Behind the sum, which a mutated seed seldom passes.
            if let Some(token) = mesh_fuzz::bounded(bytes.len(), || Token::fields(bytes)) {
                assert_eq!(Token::parse(&token.text()), Ok(token));
            }
            let text = String::from_utf8_lossy(bytes);
            let Ok(token) = mesh_fuzz::bounded(bytes.len(), || Token::parse(&text)) else { return };
            assert_eq!(token.text(), text.trim(), "a token has one text");
            assert!(matches!(token.identity, Identity::Agent(_) | Identity::Guard(_)));
            // No bit of it can be turned unnoticed.
            let mut damaged = mesh_fuzz::flipped(text.trim().as_bytes(), bytes).unwrap();
            damaged.retain(u8::is_ascii);
            assert!(Token::parse(&String::from_utf8_lossy(&damaged)).is_err());
        });
    }
}

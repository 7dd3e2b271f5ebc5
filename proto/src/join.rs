//! Joining with a token: what a new host and the mesh's authority say to each other, and what the audit keeps of it. Values
//! only: nothing here knows a key, and no record has a secret in it.

use serde::{Deserialize, Serialize};

use crate::MeshId;
use crate::command::MemberRecord;

/// What the new host sends, once it knows that it speaks to the authority of its token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAsk {
    /// Which messages its build speaks (`mesh --version --json`: `protocol`).
    pub protocol: u32,
    /// By which messages its build agrees with other voters (`agreement`).
    pub agreement: u32,
    /// Which commands its build can apply.
    pub edition: u32,
    /// The release and commit of its build, for people.
    pub build: String,
    /// The identity that the token is for, as certificates name it.
    pub identity: String,
    /// The secret of the token, in hexadecimal.
    pub secret: String,
    /// The request for a certificate, DER in hexadecimal: the public key, signed with its private key.
    pub request: String,
}

/// Shows no secret.
impl std::fmt::Debug for JoinAsk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinAsk")
            .field("identity", &self.identity)
            .field("build", &self.build)
            .field("edition", &self.edition)
            .finish_non_exhaustive()
    }
}

/// What the authority answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer", content = "value")]
pub enum JoinAnswer {
    /// The token was good.
    Issued(Box<Issued>),
    /// It was not, or not now: nothing was issued.
    Refused(TokenRefusal),
}

/// What a new host gets for its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The mesh.
    pub mesh: MeshId,
    /// Its certificate, PEM.
    pub cert: String,
    /// The authority's, PEM.
    pub authority: String,
    /// The list of revoked certificates, PEM; `None` where this authority has none.
    pub list: Option<String>,
    /// The members of the mesh; none where it is not formed yet, or nobody told the authority.
    pub members: Vec<MemberRecord>,
}

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "refused")]
pub enum TokenRefusal {
    /// This authority made none with that secret, or has forgotten it.
    Unknown,
    /// Somebody used it before, with another key.
    Used,
    /// Its time is over.
    Expired,
    /// It is for somebody else.
    OtherName {
        /// For whom.
        of: String,
        /// Who asked.
        asked: String,
    },
    /// The build of the new host speaks other messages than the mesh.
    Protocol {
        /// What the authority's build speaks: messages and agreement.
        ours: (u32, u32),
        /// What the new host's speaks.
        theirs: (u32, u32),
    },
    /// The build of the new host is older than what stands in the log: its agent would have to stop.
    Edition {
        /// What the log needs.
        needed: u32,
        /// What it has.
        theirs: u32,
    },
    /// What it sent is no request for a certificate, or was not signed with its key.
    Request,
    /// It could not be written into the audit of the mesh, so nothing was issued; the token is as good as before.
    NotRecorded {
        /// Why.
        why: String,
    },
    /// The authority could not read or write its own files; the token may be as good as before.
    Failed,
}

impl std::fmt::Display for TokenRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("the authority knows no such token"),
            Self::Used => f.write_str("it was used already, with another key"),
            Self::Expired => f.write_str("its time is over"),
            Self::OtherName { of, asked } => write!(f, "it is for {of}, and {asked} asked"),
            Self::Protocol { ours, theirs } => write!(
                f,
                "that host's mesh speaks protocol {} (agreement {}), this one {} (agreement {})",
                theirs.0, theirs.1, ours.0, ours.1
            ),
            Self::Edition { needed, theirs } => write!(
                f,
                "that host's mesh knows the commands of edition {theirs}, and those of edition {needed} are in use"
            ),
            Self::Request => f.write_str("what was sent with it is no request for a certificate"),
            Self::NotRecorded { why } => write!(f, "it could not be written into the audit: {why}"),
            Self::Failed => f.write_str("the authority could not read or write its own files"),
        }
    }
}

/// A token was tried, as the audit keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenTried {
    /// For whom the token is.
    pub identity: String,
    /// From which address it was tried.
    pub from: String,
    /// The number of the certificate that is issued for it; `None` where it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<TokenRefusal>,
}

impl std::fmt::Display for TokenTried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { identity, from, number, refused } = self;
        match (number, refused) {
            (_, Some(why)) => write!(f, "the token of {identity} was refused to {from}: {why}"),
            (Some(number), None) => {
                write!(f, "the token of {identity} is used from {from}, for certificate {number}")
            }
            (None, None) => write!(f, "the token of {identity} is tried from {from}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_about_a_token_has_no_secret_in_it() {
        let ask = JoinAsk {
            protocol: 1,
            agreement: 1,
            edition: 3,
            build: "1.2.3".to_owned(),
            identity: "agent.north.mesh".to_owned(),
            secret: "5ec2e7".to_owned(),
            request: "30".to_owned(),
        };
        let shown = format!("{ask:?}");
        assert!(shown.contains("agent.north.mesh") && !shown.contains("5ec2e7"), "{shown}");
    }

    #[test]
    fn the_audit_says_who_where_and_what_came_of_it() {
        let mut tried = TokenTried {
            identity: "agent north".to_owned(),
            from: "10.0.0.9".to_owned(),
            number: Some("ab01".to_owned()),
            refused: None,
        };
        assert_eq!(tried.to_string(), "the token of agent north is used from 10.0.0.9, for certificate ab01");
        (tried.number, tried.refused) = (None, Some(TokenRefusal::Used));
        let refused =
            "the token of agent north was refused to 10.0.0.9: it was used already, with another key";
        assert_eq!(tried.to_string(), refused);
    }
}

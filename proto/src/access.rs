//! Roles of a host's users, and refusals for want of one as the audit keeps them. Nothing here decides who has which.

use serde::{Deserialize, Serialize};

use crate::{AgentName, OperatorName};

/// What a user may do. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look.
    View,
    /// Do what keeps every promise.
    Operate,
    /// Waive verdict, hold-down and lag limit, and accept loss.
    Force,
    /// Change groups and members.
    Admin,
}

impl Role {
    /// As the node's file spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Operate => "operate",
            Self::Force => "force",
            Self::Admin => "admin",
        }
    }
}

/// The text is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role; write view, operate, force or admin")]
pub struct RoleError(String);

impl std::str::FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, RoleError> {
        let all = [Self::View, Self::Operate, Self::Force, Self::Admin];
        all.into_iter().find(|role| role.name() == text).ok_or_else(|| RoleError(text.to_owned()))
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A user of a host asked for what they have no role for. Who it was is the actor of the entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The agent that was asked, and refused.
    pub agent: AgentName,
    /// The user's number on that host; 0 where it was somebody with a certificate of their own.
    pub uid: u32,
    /// Who showed a certificate, over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorName>,
    /// What was asked for, as a command: `failover --force`.
    pub verb: String,
    /// The role that it needs.
    pub needed: Role,
    /// The role that the user has.
    pub has: Option<Role>,
    /// How often the same was refused to the same user since the record before, without a record of its own.
    pub left_out: u64,
    /// How often anything else was refused on that host without a record since the agent's record before.
    pub others: u64,
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { agent, uid, operator, verb, needed, has, left_out, others } = self;
        let has = has.map_or_else(|| "none".to_owned(), |has| format!("only {has}"));
        let who = match operator {
            Some(operator) => format!("the certificate of operator {operator}"),
            None => format!("uid {uid}"),
        };
        write!(f, "denied on {agent}: `mesh {verb}` needs the role {needed}, and {who} has {has}")?;
        if *left_out > 0 {
            write!(f, "; the same {left_out} times more since the last record of it")?;
        }
        if *others > 0 {
            write!(f, "; {others} further refusals there have no record")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_says_who_lacks_what_and_what_was_left_out() {
        let mut denial = Denial {
            agent: "east-1".parse().unwrap(),
            uid: 1001,
            operator: None,
            verb: "failover --force".to_owned(),
            needed: Role::Force,
            has: Some(Role::Operate),
            left_out: 0,
            others: 0,
        };
        let plain =
            "denied on east-1: `mesh failover --force` needs the role force, and uid 1001 has only operate";
        assert_eq!(denial.to_string(), plain);
        (denial.left_out, denial.others, denial.has) = (12, 3, None);
        assert_eq!(
            denial.to_string(),
            "denied on east-1: `mesh failover --force` needs the role force, and uid 1001 has none; the same 12 times more \
             since the last record of it; 3 further refusals there have no record"
        );
        (denial.operator, denial.left_out, denial.others) = (Some("ada".parse().unwrap()), 0, 0);
        assert!(denial.to_string().ends_with("and the certificate of operator ada has none"), "{denial}");
    }
}

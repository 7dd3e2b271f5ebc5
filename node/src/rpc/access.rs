//! Roles: what each question needs, and who may ask it. A caller on the Unix socket has the role that this host's file gives; a
//! person with a certificate the one that stands in it. What another agent forwards was looked at where it was asked. It never
//! changes anything, and knows no password.

use mesh_proto::OperatorName;
use mesh_proto::access::Role;
use mesh_proto::operator::{Ask, FailoverAsk, Refusal, RefusalCode};

use super::LocalUser;
use crate::config::{AccessSection, Principal};

/// The verb of a question, and the role that it needs.
#[must_use]
pub const fn needed(ask: &Ask) -> (&'static str, Role) {
    match ask {
        Ask::Status => ("status", Role::View),
        Ask::Why { .. } => ("why", Role::View),
        Ask::Run { .. } => ("run", Role::View),
        Ask::Audit { .. } => ("audit", Role::View),
        Ask::AuditVerify | Ask::AuditHash { .. } => ("audit verify", Role::View),
        Ask::Live { .. } | Ask::LiveHere(_) => ("audit live", Role::View),
        Ask::Nodes => ("node list", Role::View),
        // It only shows what would happen.
        Ask::Failover(FailoverAsk { dry_run: true, .. }) => ("plan", Role::View),
        Ask::Failover(FailoverAsk { force: true, .. }) => ("failover --force", Role::Force),
        Ask::Failover(FailoverAsk { accept_loss: true, .. }) => ("failover --accept-loss", Role::Force),
        Ask::Failover(FailoverAsk { graceful_only: true, .. }) => ("switchover", Role::Operate),
        Ask::Failover(FailoverAsk { graceful_only: false, .. }) => ("failover", Role::Operate),
        Ask::Abort { .. } => ("abort", Role::Operate),
        Ask::Retry { .. } => ("retry", Role::Operate),
        Ask::Skip { .. } => ("skip", Role::Operate),
        Ask::Rejoin { .. } => ("rejoin", Role::Operate),
        Ask::Pause { .. } => ("pause", Role::Operate),
        Ask::Resume { .. } => ("resume", Role::Operate),
        Ask::Ack { .. } => ("ack", Role::Operate),
        // What is acknowledged meanwhile can be lost with one host.
        Ask::Degrade { end: false, .. } => ("degrade", Role::Force),
        Ask::Degrade { end: true, .. } => ("degrade --end", Role::Operate),
        Ask::Apply { dry_run: true, .. } => ("apply --dry-run", Role::View),
        Ask::Apply { dry_run: false, .. } => ("apply", Role::Admin),
        Ask::Adopt { .. } => ("adopt", Role::Admin),
        Ask::Form => ("form", Role::Admin),
        Ask::NodeAdd { .. } => ("node add", Role::Admin),
        Ask::NodeVoters { .. } => ("node voters", Role::Admin),
        Ask::NodeRemove { .. } => ("node remove", Role::Admin),
        Ask::Approve { dry_run: true, .. } => ("approve --list", Role::View),
        Ask::Approve { dry_run: false, .. } => ("approve", Role::Force),
        Ask::Withdraw { .. } => ("withdraw", Role::Operate),
        // Agents say it to each other; the service takes it from nobody else, whatever their role.
        Ask::Denied(_) => ("denied", Role::Admin),
        // The authority says it, and nobody else.
        Ask::TokenTried(_) => ("ca serve", Role::Admin),
    }
}

/// A user has no role for what they asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRole {
    /// What was asked for.
    pub verb: &'static str,
    /// What it needs.
    pub needed: Role,
    /// What the user has.
    pub has: Option<Role>,
    /// The answer.
    pub refusal: Refusal,
}

/// Whether a person with a certificate may ask this.
///
/// # Errors
/// [`NoRole`], with a [`Refusal`] that says how to get another certificate.
pub fn check_operator(name: &OperatorName, has: Role, ask: &Ask) -> Result<(), NoRole> {
    let (verb, needed) = needed(ask);
    if has >= needed {
        return Ok(());
    }
    tracing::warn!(
        operator = name.as_str(),
        verb,
        role = has.name(),
        needed = needed.name(),
        "refused a question"
    );
    let what =
        format!("`mesh {verb}` needs the role {needed}, and the certificate of operator {name} says {has}");
    let next = format!(
        "ask somebody who has it; a certificate with another role: mesh ca operator {name} --role {needed} --dir DIR --out NEW"
    );
    let refusal = Refusal::new(RefusalCode::Denied, what, next);
    Err(NoRole { verb, needed, has: Some(has), refusal })
}

/// Who has which role on this host.
#[derive(Debug, Clone)]
pub struct Access {
    section: Option<AccessSection>,
    own: u32,
}

impl Access {
    /// By the node's file; `own` is the agent's own user. Without a section whoever may open the socket may everything.
    #[must_use]
    pub const fn new(section: Option<AccessSection>, own: u32) -> Self {
        Self { section, own }
    }

    /// The role of a user. `groups` is the text of `/etc/group`.
    fn role(&self, user: &LocalUser, groups: &str) -> Option<Role> {
        let Some(section) = &self.section else { return Some(Role::Admin) };
        if user.uid == 0 || user.uid == self.own {
            return Some(Role::Admin);
        }
        let is = |one: &Principal| match one {
            Principal::User(name) => *name == user.name,
            Principal::Group(name) => belongs(user, name, groups),
        };
        [Role::Admin, Role::Force, Role::Operate, Role::View]
            .into_iter()
            .find(|role| section_of(section, *role).iter().any(is))
    }

    /// Refuses a question that the user has no role for, and writes that down.
    ///
    /// # Errors
    /// [`NoRole`], with a [`Refusal`] that says which role is needed and who has it.
    pub fn check(&self, user: &LocalUser, ask: &Ask) -> Result<(), NoRole> {
        // The file alone, as for names: a lookup over the network could hang when everything else does.
        let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
        self.check_with(user, ask, &groups)
    }

    fn check_with(&self, user: &LocalUser, ask: &Ask, groups: &str) -> Result<(), NoRole> {
        let (verb, needed) = needed(ask);
        let has = self.role(user, groups);
        if has.is_some_and(|has| has >= needed) {
            return Ok(());
        }
        let role = has.map_or("none", Role::name);
        tracing::warn!(
            user = user.name,
            uid = user.uid,
            pid = user.pid,
            verb,
            role,
            needed = needed.name(),
            "refused a question"
        );
        let refusal = Refusal::new(
            RefusalCode::Denied,
            format!(
                "`mesh {verb}` needs the role {} on this host, and {} has {}",
                needed.name(),
                user.name,
                has.map_or_else(|| "none".to_owned(), |has| format!("only {}", has.name()))
            ),
            format!(
                "it is held by {}; roles are given in [access] of this agent's file",
                self.holders(needed)
            ),
        );
        Err(NoRole { verb, needed, has, refusal })
    }

    /// Who has this role, or a higher one.
    fn holders(&self, needed: Role) -> String {
        let mut names = Vec::new();
        for role in [Role::View, Role::Operate, Role::Force, Role::Admin] {
            if let Some(section) = self.section.as_ref().filter(|_| role >= needed) {
                names.extend(section_of(section, role).iter().map(|one| format!("{one} ({})", role.name())));
            }
        }
        names.push("root".to_owned());
        names.join(", ")
    }
}

fn section_of(section: &AccessSection, role: Role) -> &[Principal] {
    match role {
        Role::View => &section.view,
        Role::Operate => &section.operate,
        Role::Force => &section.force,
        Role::Admin => &section.admin,
    }
}

/// Whether a user is in a group: by the group that the kernel names, or by its line in `/etc/group`.
fn belongs(user: &LocalUser, group: &str, groups: &str) -> bool {
    groups.lines().any(|line| {
        let mut fields = line.split(':');
        let (Some(name), _password, Some(number), Some(members)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        name == group
            && (number.parse() == Ok(user.gid) || members.split(',').any(|member| member == user.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &str = "root:x:0:\nops:x:100:ada,bob\ndba:x:200:eve\nbroken\n";

    fn user(uid: u32, gid: u32, name: &str) -> LocalUser {
        LocalUser { uid, gid, name: name.to_owned(), pid: None }
    }

    fn access() -> Access {
        let one = |text: &str| vec![Principal::try_from(text.to_owned()).unwrap()];
        let section = AccessSection {
            view: one("group:ops"),
            operate: one("user:bob"),
            force: one("group:dba"),
            admin: Vec::new(),
        };
        Access::new(Some(section), 900)
    }

    fn failover(force: bool, accept_loss: bool, dry_run: bool) -> Ask {
        Ask::Failover(FailoverAsk {
            group: None,
            site: None,
            instance: None,
            graceful_only: false,
            force,
            accept_loss,
            dry_run,
            reason: String::new(),
        })
    }

    #[test]
    fn each_has_the_highest_role_that_names_them() {
        let access = access();
        let role = |uid, gid, name| access.role(&user(uid, gid, name), GROUPS);
        assert_eq!(role(0, 0, "root"), Some(Role::Admin));
        assert_eq!(role(900, 900, "mesh"), Some(Role::Admin));
        assert_eq!(role(1000, 1000, "ada"), Some(Role::View));
        assert_eq!(role(1001, 1001, "bob"), Some(Role::Operate));
        assert_eq!(role(1002, 1002, "eve"), Some(Role::Force));
        assert_eq!(role(1003, 200, "by-gid"), Some(Role::Force));
        assert_eq!(role(1004, 1004, "nobody"), None);
        assert_eq!(Access::new(None, 900).role(&user(1004, 1004, "nobody"), ""), Some(Role::Admin));
    }

    #[test]
    fn force_is_a_role_of_its_own_and_a_plan_only_looks() {
        let access = access();
        let may = |name: &str, ask: &Ask| access.check_with(&user(1000, 1000, name), ask, GROUPS).is_ok();
        assert!(may("ada", &Ask::Status) && may("ada", &failover(true, true, true)));
        assert!(!may("ada", &failover(false, false, false)) && may("bob", &failover(false, false, false)));
        for forced in [failover(true, false, false), failover(false, true, false)] {
            assert!(!may("bob", &forced) && may("eve", &forced));
        }
        assert!(!may("eve", &Ask::Form) && !may("nobody", &Ask::Status));
    }

    #[test]
    fn a_certificate_gives_its_role_everywhere_and_no_more() {
        let ada = OperatorName::new("ada").unwrap();
        let may = |role, ask: &Ask| check_operator(&ada, role, ask).is_ok();
        assert!(may(Role::View, &Ask::Status) && !may(Role::View, &Ask::Form));
        assert!(
            !may(Role::View, &failover(false, false, false))
                && may(Role::Operate, &failover(false, false, false))
        );
        assert!(
            !may(Role::Operate, &failover(true, false, false))
                && may(Role::Force, &failover(true, false, false))
        );
        assert!(!may(Role::Force, &Ask::Form) && may(Role::Admin, &Ask::Form));
        let refused = check_operator(&ada, Role::View, &Ask::Form).unwrap_err();
        assert_eq!(
            refused.refusal.what,
            "`mesh form` needs the role admin, and the certificate of operator ada says view"
        );
        assert!(refused.refusal.next.contains("mesh ca operator ada --role admin"), "{:?}", refused.refusal);
    }

    #[test]
    fn a_refusal_says_what_is_needed_and_who_has_it() {
        let refused = access().check_with(&user(1001, 1001, "bob"), &failover(true, false, false), GROUPS);
        let NoRole { verb, needed, has, refusal } = refused.unwrap_err();
        assert_eq!((verb, needed, has), ("failover --force", Role::Force, Some(Role::Operate)));
        assert_eq!(refusal.code, RefusalCode::Denied);
        assert_eq!(
            refusal.what,
            "`mesh failover --force` needs the role force on this host, and bob has only operate"
        );
        assert_eq!(
            refusal.next,
            "it is held by group:dba (force), root; roles are given in [access] of this agent's file"
        );
    }
}

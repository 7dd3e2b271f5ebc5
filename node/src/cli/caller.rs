//! Who sits at the keyboard, for the audit.

use mesh_proto::run::Actor;

/// The caller as the audit names them: the unix user name, or `uid 1234` when the user database has none.
#[must_use]
pub fn operator() -> Actor {
    let uid = rustix::process::getuid().as_raw();
    let sudo = if uid == 0 { std::env::var("SUDO_USER").ok() } else { None };
    // The file alone: a lookup over the network could hang when everything else does.
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    Actor::Operator(name(uid, &passwd, sudo.as_deref()))
}

fn name(uid: u32, passwd: &str, sudo: Option<&str>) -> String {
    let own = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid) && !name.is_empty()).then(|| name.to_owned())
    });
    let own = own.unwrap_or_else(|| format!("uid {uid}"));
    match sudo {
        Some(person) if !person.is_empty() && person != own => format!("{person} as {own}"),
        Some(_) | None => own,
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn people_have_names() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(name(1000, passwd, None), "ada");
        assert_eq!(name(0, passwd, Some("ada")), "ada as root");
        assert_eq!(name(0, passwd, Some("root")), "root");
        assert_eq!(name(77, passwd, None), "uid 77");
        assert_eq!(name(77, "", None), "uid 77");
    }
}

use mesh_proto::access::Role;
use mesh_proto::run::Actor;
use mesh_proto::{AgentName, InstanceName, MeshId, OperatorName};

use super::authorise::{self, Caller, LocalUser};
use super::envelope::{EnvelopeError, open, seal};
use crate::tls::Identity;

#[test]
fn a_message_of_another_mesh_or_a_damaged_one_is_refused() {
    let (shop, other) = (MeshId::new("shop").unwrap(), MeshId::new("other").unwrap());
    let mut sealed = seal(&shop, &17_u32).unwrap();
    assert_eq!(open::<u32>(&shop, &sealed).unwrap(), 17);
    assert!(matches!(open::<u32>(&other, &sealed), Err(EnvelopeError::OtherMesh { .. })));
    assert!(matches!(open::<String>(&shop, &sealed), Err(EnvelopeError::Codec(_))));
    sealed.body[10] ^= 1;
    assert!(matches!(open::<u32>(&shop, &sealed), Err(EnvelopeError::Codec(_))));
}

#[test]
fn nobody_speaks_for_another() {
    let (a, b) = (AgentName::new("a").unwrap(), AgentName::new("b").unwrap());
    let (x, y) = (InstanceName::new("x").unwrap(), InstanceName::new("y").unwrap());
    let agent = Caller::Peer(Identity::Agent(a.clone()));
    let guard = Caller::Peer(Identity::Guard(x.clone()));
    let user = Caller::Local(LocalUser::new(0, 0, None));
    assert!(authorise::guard_of(&guard, &x).is_ok());
    assert!(authorise::guard_of(&guard, &y).is_err());
    assert!(authorise::guard_of(&agent, &x).is_err() && authorise::guard_of(&user, &x).is_err());
    assert!(authorise::is_agent(&agent, &a).is_ok() && authorise::is_agent(&agent, &b).is_err());
    assert!(authorise::agent(&guard).is_err() && authorise::agent(&user).is_err());
    assert!(authorise::member(&agent, |name| *name == a).is_ok());
    assert!(authorise::member(&agent, |_| false).is_err());
    assert_eq!(authorise::actor(&user, &Actor::Mesh).unwrap(), Actor::Operator("root".to_owned()));
    assert!(authorise::actor(&guard, &Actor::Mesh).is_err());
    // A person is who the certificate says, whatever they claim, and no agent, member or guard.
    let ada = Caller::Peer(Identity::Operator(OperatorName::new("ada").unwrap(), Role::Admin));
    for claimed in [Actor::Mesh, Actor::Operator("bob".to_owned())] {
        assert_eq!(authorise::actor(&ada, &claimed).unwrap(), Actor::Operator("ada".to_owned()));
    }
    for person in [ada, Caller::Peer(Identity::Authority)] {
        assert!(authorise::agent(&person).is_err() && authorise::guard_of(&person, &x).is_err());
        assert!(authorise::member(&person, |_| true).is_err() && authorise::is_agent(&person, &a).is_err());
    }
}

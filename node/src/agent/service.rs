//! The Agent service: reports in, orders for routes, services and hooks in, questions in. Who may do what is checked for every call.

use std::sync::Arc;

use mesh_proto::access::Role;
use mesh_proto::effect::Order;
use mesh_proto::evidence::Report;
use mesh_proto::operator::{Answer, Ask, Question, Refusal, RefusalCode};
use mesh_proto::rpc::Envelope;
use mesh_proto::rpc::agent_server::Agent;
use mesh_proto::{AgentName, MeshId, OperatorName};
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status};

use super::ask::Asked;
use super::denials::{Denials, Denied, Who};
use super::left_behind::LeftBehind;
use crate::rpc::envelope::{self, EnvelopeError};
use crate::rpc::{self, Access, Caller, LocalUser, NoRole, caller, check_operator};
use crate::tls::Identity;

/// Answers calls of agents and of the command line.
#[derive(Clone)]
pub struct AgentService {
    mesh: MeshId,
    left: Arc<LeftBehind>,
    asked: Arc<Asked>,
    access: Arc<Access>,
    denials: Arc<Denials>,
}

impl AgentService {
    /// A service for one agent.
    #[must_use]
    pub fn new(left: Arc<LeftBehind>, asked: Arc<Asked>, access: Arc<Access>, denials: Arc<Denials>) -> Self {
        Self { mesh: left.mesh().acting.clone(), left, asked, access, denials }
    }

    /// Unpacks what an agent sent. One that went on without this one is listened to once.
    fn opened<T: DeserializeOwned>(&self, who: &Caller, envelope: &Envelope) -> Result<T, EnvelopeError> {
        envelope::open(&self.mesh, envelope).inspect_err(|refused| self.left.look(who, refused))
    }

    /// Whether a user of this host may ask this. What only agents say to each other no user may, whatever their role.
    fn check_local(&self, user: &LocalUser, ask: &Ask) -> Result<(), Refusal> {
        self.access.check(user, ask).map_err(|refused| self.noted(Who::User(user.clone()), refused))?;
        asked_by_people(ask)
    }

    /// The same of a person with a certificate.
    fn check_operator(&self, name: &OperatorName, role: Role, ask: &Ask) -> Result<(), Refusal> {
        check_operator(name, role, ask)
            .map_err(|refused| self.noted(Who::Operator(name.clone()), refused))?;
        asked_by_people(ask)
    }

    fn noted(&self, who: Who, refused: NoRole) -> Refusal {
        let NoRole { verb, needed, has, refusal } = refused;
        self.denials.note(Denied { who, verb, needed, has });
        refusal
    }

    fn is_member(&self, name: &AgentName) -> bool {
        self.asked.driver.consensus.read(|machine| machine.state().members.contains_key(name))
    }

    fn is_formed(&self) -> bool {
        self.asked.driver.consensus.read(|machine| machine.state().mesh.is_some())
    }

    fn answer<T: serde::Serialize>(&self, value: &T) -> Result<Response<Envelope>, Status> {
        Ok(Response::new(envelope::seal(&self.mesh, value)?))
    }
}

/// What agents and the authority have written down nobody else may.
fn asked_by_people(ask: &Ask) -> Result<(), Refusal> {
    if matches!(ask, Ask::Denied(_) | Ask::TokenTried(_)) {
        let what = "only agents have refusals written down, and only the authority what came of its tokens";
        return Err(Refusal::new(RefusalCode::Invalid, what, "nothing was changed"));
    }
    Ok(())
}

/// What the authority may ask, while somebody serves it: whom a new host belongs with, and to have written down what it did.
fn asked_by_authority(ask: &Ask) -> Result<(), Refusal> {
    if matches!(ask, Ask::Status | Ask::Nodes | Ask::TokenTried(_)) {
        return Ok(());
    }
    let what = "the authority asks nothing but who the members are";
    Err(Refusal::new(
        RefusalCode::Denied,
        what,
        "ask as an operator: mesh ca operator NAME --role ROLE --dir DIR --out NEW",
    ))
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn report(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let who = caller(&request)?;
        let report: Report = self.opened(&who, request.get_ref())?;
        rpc::is_agent(&who, &report.agent)?;
        if !self.is_member(&report.agent) {
            return Err(Status::permission_denied(format!("{} is no member of this mesh", report.agent)));
        }
        self.asked.driver.heard_report(report);
        self.answer(&())
    }

    async fn execute(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let who = caller(&request)?;
        rpc::member(&who, |name| self.is_member(name))?;
        let order: Order = envelope::open(&self.mesh, request.get_ref())?;
        let outcome = self.asked.driver.execute_here(&order).await;
        self.answer(&outcome)
    }

    async fn ask(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let who = caller(&request)?;
        let Question { actor, ask } = match &who {
            // A person has the certificate of the mesh, and need not know how often it was begun anew.
            Caller::Local(_) | Caller::Peer(Identity::Operator(..) | Identity::Authority) => {
                envelope::open_local(&self.mesh, request.get_ref())?
            }
            Caller::Peer(_) => envelope::open(&self.mesh, request.get_ref())?,
        };
        let checked = match &who {
            Caller::Local(user) => self.check_local(user, &ask),
            Caller::Peer(Identity::Operator(name, role)) => self.check_operator(name, *role, &ask),
            Caller::Peer(Identity::Authority) => asked_by_authority(&ask),
            // Looked at by the agent on whose host it was asked. Before there are members the founders ask each other.
            Caller::Peer(Identity::Agent(_) | Identity::Guard(_)) => {
                rpc::member(&who, |name| self.is_member(name) || !self.is_formed())?;
                if let Ask::Denied(denial) = &ask {
                    rpc::is_agent(&who, &denial.agent)?;
                }
                Ok(())
            }
        };
        if let Err(refusal) = checked {
            return self.answer(&Answer::Refused(refusal));
        }
        let actor = rpc::actor(&who, &actor)?;
        let answer = self.asked.answer(Question { actor, ask }).await;
        self.answer(&answer)
    }
}

//! The Agent service: reports in, orders for routes, services and hooks in, questions in. Who may do what is checked for every call.

use std::sync::Arc;

use mesh_proto::MeshId;
use mesh_proto::effect::Order;
use mesh_proto::evidence::Report;
use mesh_proto::operator::{Answer, Ask, Question, Refusal, RefusalCode};
use mesh_proto::rpc::Envelope;
use mesh_proto::rpc::agent_server::Agent;
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status};

use super::ask::Asked;
use super::denials::{Denials, Denied};
use super::left_behind::LeftBehind;
use crate::rpc::envelope::{self, EnvelopeError};
use crate::rpc::{self, Access, Caller, LocalUser, NoRole, caller};

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
        self.access.check(user, ask).map_err(|NoRole { verb, needed, has, refusal }| {
            self.denials.note(Denied { user: user.clone(), verb, needed, has });
            refusal
        })?;
        if matches!(ask, Ask::Denied(_)) {
            let what = "only agents have refusals written down";
            return Err(Refusal::new(RefusalCode::Invalid, what, "nothing was changed"));
        }
        Ok(())
    }

    fn is_member(&self, name: &mesh_proto::AgentName) -> bool {
        self.asked.driver.consensus.read(|machine| machine.state().members.contains_key(name))
    }

    fn is_formed(&self) -> bool {
        self.asked.driver.consensus.read(|machine| machine.state().mesh.is_some())
    }

    fn answer<T: serde::Serialize>(&self, value: &T) -> Result<Response<Envelope>, Status> {
        Ok(Response::new(envelope::seal(&self.mesh, value)?))
    }
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
            Caller::Local(_) => envelope::open_local(&self.mesh, request.get_ref())?,
            Caller::Peer(_) => envelope::open(&self.mesh, request.get_ref())?,
        };
        match &who {
            Caller::Local(user) => {
                if let Err(refusal) = self.check_local(user, &ask) {
                    return self.answer(&Answer::Refused(refusal));
                }
            }
            // Looked at by the agent on whose host it was asked. Before there are members the founders ask each other.
            Caller::Peer(_) => {
                rpc::member(&who, |name| self.is_member(name) || !self.is_formed())?;
                if let Ask::Denied(denial) = &ask {
                    rpc::is_agent(&who, &denial.agent)?;
                }
            }
        }
        let actor = rpc::actor(&who, &actor)?;
        let answer = self.asked.answer(Question { actor, ask }).await;
        self.answer(&answer)
    }
}

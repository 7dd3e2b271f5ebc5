//! The Guard service of the wire: orders of the leader, status for whoever belongs to the mesh, and promises for the guards
//! of the group's other instances.

use std::sync::mpsc::Sender;
use std::time::Duration;

use mesh_proto::MeshId;
use mesh_proto::effect::{Order, Outcome};
use mesh_proto::hold::HoldRequest;
use mesh_proto::rpc::Envelope;
use mesh_proto::rpc::guard_server::{Guard, GuardServer};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::driver::Input;
use crate::rpc::{authorise, envelope};

/// The core answers within the order's budget; this much later something is wrong with the guard itself.
const GRACE: Duration = Duration::from_secs(2);
/// How long a status may take.
const STATUS_WITHIN: Duration = Duration::from_secs(1);
/// How long a promise may take, which may have to be on disk first: whoever asks asks again before that.
const PROMISE_WITHIN: Duration = Duration::from_secs(1);

/// The service to mount.
pub(super) fn mount(mesh: MeshId, inputs: Sender<Input>) -> GuardServer<GuardService> {
    GuardServer::new(GuardService { mesh, inputs })
}

/// Hands orders to the driver and waits for its answers.
#[derive(Debug, Clone)]
pub(super) struct GuardService {
    mesh: MeshId,
    inputs: Sender<Input>,
}

impl GuardService {
    fn send(&self, input: Input) -> Result<(), Status> {
        self.inputs.send(input).map_err(|_| Status::unavailable("this guard is going down"))
    }
}

#[tonic::async_trait]
impl Guard for GuardService {
    async fn execute(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let caller = authorise::caller(&request)?;
        // Which agent leads is not this guard's to know: epoch and Raft term in the order pass its gate or do not.
        authorise::agent(&caller)?;
        let order: Order = envelope::open(&self.mesh, request.get_ref())?;
        tracing::info!(%caller, step = %order.step, effect = %order.effect, verify = order.verify_only, "an order");
        let (answer, wait) = oneshot::channel();
        let budget = order.budget.duration() + GRACE;
        self.send(Input::Order { order: Box::new(order), answer })?;
        let outcome = match tokio::time::timeout(budget, wait).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::Unknown { detail: "the guard went down before it answered".to_owned() },
            Err(_) => Outcome::Unknown { detail: "the guard did not answer within its budget".to_owned() },
        };
        Ok(Response::new(envelope::seal(&self.mesh, &outcome)?))
    }

    async fn status(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        authorise::caller(&request)?;
        envelope::open::<()>(&self.mesh, request.get_ref())?;
        let (answer, wait) = oneshot::channel();
        self.send(Input::Status { answer })?;
        let status = tokio::time::timeout(STATUS_WITHIN, wait)
            .await
            .map_err(|_| Status::deadline_exceeded("this guard is too busy to say how it is"))?
            .map_err(|_| Status::unavailable("this guard is going down"))?;
        Ok(Response::new(envelope::seal(&self.mesh, &*status)?))
    }

    async fn hold(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let caller = authorise::caller(&request)?;
        let hold: HoldRequest = envelope::open(&self.mesh, request.get_ref())?;
        authorise::guard_of(&caller, &hold.key.instance)?;
        let (answer, wait) = oneshot::channel();
        self.send(Input::Hold { request: Box::new(hold), answer })?;
        let answer = tokio::time::timeout(PROMISE_WITHIN, wait)
            .await
            .map_err(|_| Status::deadline_exceeded("this guard could not note it in time"))?
            .map_err(|_| Status::unavailable("this guard is going down"))?;
        Ok(Response::new(envelope::seal(&self.mesh, &answer)?))
    }
}

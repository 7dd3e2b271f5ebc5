//! The agent's HTTP role endpoints, which load balancers use as health checks.
//!
//! Every answer is asked of the guard at that moment; nothing is cached, and every doubt is a 503: a load balancer that
//! follows an old answer would lead writes to a server that lost its epoch. Nothing here changes anything, and nothing
//! here is secret: names, roles, epochs, lag.
//!
//! `/primary`, `/replica?lag=10MB`, `/health` speak of the only instance of this host (or `/instances/NAME/…` of one
//! of several); `/liveness` and `/readiness` of the agent; `/traefik` is a configuration for Traefik's HTTP provider, `/metrics` the
//! status for Prometheus. GET, HEAD and OPTIONS are the same question.

mod metrics;
mod role;
mod routes;
mod serve;
mod traefik;

pub use role::{LocalInstance, Reading, RoleSource, Silence};
pub use routes::{ANSWER_WITHIN, router};
pub use serve::serve;
pub use traefik::Lead;

#[cfg(test)]
mod tests;

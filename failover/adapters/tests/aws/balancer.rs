//! A load balancer's API with one target group: health that comes with time, targets that drain, a VPC with an inside and an
//! outside, and every way in which an answer goes astray. Written from the API reference of ELBv2.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::strict::{GOOD_KEY, POOR_KEY};

pub const ARN: &str =
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/orders/0123456789abcdef";
/// Addresses that lie in its VPC begin so.
const VPC: &str = "10.0.";

/// What becomes of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// Changes are refused by this code so often.
    PutOff(&'static str, u32),
    /// This action is done, and then nothing is said to anybody any more.
    SwallowAt(&'static str),
    /// This action is done once, and answered with 500.
    FailAfter(&'static str),
    /// Nothing gets there, whatever is asked.
    Hang,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Becomes healthy after so many looks.
    Initial(u32),
    Healthy,
    Unhealthy,
    Draining,
}

#[derive(Debug, Default)]
struct Inner {
    tags: BTreeMap<String, String>,
    targets: BTreeMap<(String, u16), Health>,
    /// Looks until a new target is healthy.
    checks: u32,
    spoil: Option<Spoil>,
    /// Each change, and who was in after it.
    done: Vec<(String, Vec<String>)>,
}

#[derive(Clone)]
pub struct Balancer {
    pub address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

impl Balancer {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let balancer = Self { address: listener.local_addr().unwrap(), inner: Arc::default() };
        let app = Router::new().fallback(serve).with_state(balancer.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        balancer
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn spoil(&self, spoil: Option<Spoil>) {
        self.inner().spoil = spoil;
    }

    /// How many looks a new target's first health check takes.
    pub fn checks(&self, looks: u32) {
        self.inner().checks = looks;
    }

    pub fn tag(&self, key: &str, value: &str) {
        self.inner().tags.insert(key.to_owned(), value.to_owned());
    }

    pub fn tagged(&self, key: &str) -> Option<String> {
        self.inner().tags.get(key).cloned()
    }

    pub fn put(&self, id: &str, health: Option<Health>) {
        let key = (id.to_owned(), 5432);
        match health {
            Some(health) => self.inner().targets.insert(key, health),
            None => self.inner().targets.remove(&key),
        };
    }

    /// Targets that get new connections, or shall.
    pub fn registered(&self) -> Vec<String> {
        registered(&self.inner().targets)
    }

    /// What was changed since it was asked last.
    pub fn done(&self) -> Vec<(String, Vec<String>)> {
        std::mem::take(&mut self.inner().done)
    }
}

fn registered(targets: &BTreeMap<(String, u16), Health>) -> Vec<String> {
    let in_it = targets.iter().filter(|(_, health)| **health != Health::Draining);
    in_it.map(|((id, _), _)| id.clone()).collect()
}

fn xml(status: StatusCode, body: String) -> Response {
    (status, [("content-type", "text/xml")], body).into_response()
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let kind = if status.is_server_error() { "Receiver" } else { "Sender" };
    xml(
        status,
        format!(
            "<ErrorResponse xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/\"><Error><Type>{kind}</Type>\
             <Code>{code}</Code><Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
        ),
    )
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).unwrap()
}

async fn serve(State(balancer): State<Balancer>, request: Request) -> Response {
    let hangs = || matches!(balancer.inner().spoil, Some(Spoil::Hang));
    if hangs() {
        std::future::pending::<()>().await;
    }
    let signed =
        request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if signed.contains(&format!("Credential={POOR_KEY}/")) {
        return error(
            StatusCode::FORBIDDEN,
            "AccessDenied",
            "User: arn:aws:iam::123456789012:user/poor is not authorized",
        );
    }
    if !signed.contains(&format!("Credential={GOOD_KEY}/")) {
        return error(
            StatusCode::FORBIDDEN,
            "InvalidClientTokenId",
            "The security token included is invalid.",
        );
    }
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let form: BTreeMap<String, String> = body
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (decoded(k), decoded(v)))
        .collect();
    balancer.act(&form).await
}

impl Balancer {
    async fn act(&self, form: &BTreeMap<String, String>) -> Response {
        let action = form["Action"].as_str();
        let arn = form.get("TargetGroupArn").or_else(|| form.get("ResourceArns.member.1"));
        if arn.map(String::as_str) != Some(ARN) {
            return error(
                StatusCode::BAD_REQUEST,
                "TargetGroupNotFound",
                "One or more target groups not found",
            );
        }
        let asks = action.starts_with("Describe");
        let spoil = self.inner().spoil;
        if let Some(Spoil::PutOff(code, left)) = spoil
            && !asks
        {
            if left > 0 {
                self.spoil(Some(Spoil::PutOff(code, left - 1)));
                return error(StatusCode::BAD_REQUEST, code, "Rate exceeded");
            }
            self.spoil(None);
        }
        let answer = match action {
            "DescribeTags" => self.tags(),
            "DescribeTargetHealth" => self.health(),
            "AddTags" => self.add_tags(form),
            "RegisterTargets" | "DeregisterTargets" => {
                match self.targets(action == "RegisterTargets", form) {
                    Ok(result) => result,
                    Err(what) => return error(StatusCode::BAD_REQUEST, "InvalidTarget", &what),
                }
            }
            other => return error(StatusCode::BAD_REQUEST, "InvalidAction", other),
        };
        if !asks {
            let mut inner = self.inner();
            let now = registered(&inner.targets);
            inner.done.push((action.to_owned(), now));
        }
        match spoil {
            Some(Spoil::SwallowAt(at)) if at == action => {
                self.spoil(Some(Spoil::Hang));
                std::future::pending().await
            }
            Some(Spoil::FailAfter(at)) if at == action => {
                self.spoil(None);
                error(StatusCode::INTERNAL_SERVER_ERROR, "InternalFailure", "")
            }
            Some(Spoil::SwallowAt(_) | Spoil::FailAfter(_) | Spoil::PutOff(..) | Spoil::Hang) | None => xml(
                StatusCode::OK,
                format!(
                    "<{action}Response xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/\"><{action}Result>\
                     {answer}</{action}Result><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>"
                ),
            ),
        }
    }

    fn tags(&self) -> String {
        let inner = self.inner();
        let tags: String = inner
            .tags
            .iter()
            .map(|(key, value)| format!("<member><Key>{key}</Key><Value>{value}</Value></member>"))
            .collect();
        format!(
            "<TagDescriptions><member><ResourceArn>{ARN}</ResourceArn><Tags>{tags}</Tags></member></TagDescriptions>"
        )
    }

    fn health(&self) -> String {
        let mut inner = self.inner();
        let mut members = String::new();
        for ((id, port), health) in &mut inner.targets {
            let (state, reason) = match health {
                Health::Initial(_) => ("initial", "<Reason>Elb.RegistrationInProgress</Reason>"),
                Health::Healthy => ("healthy", ""),
                Health::Unhealthy => ("unhealthy", "<Reason>Target.FailedHealthChecks</Reason>"),
                Health::Draining => ("draining", "<Reason>Target.DeregistrationInProgress</Reason>"),
            };
            members.push_str(&format!(
                "<member><Target><Id>{id}</Id><Port>{port}</Port></Target><TargetHealth><State>{state}</State>{reason}\
                 </TargetHealth></member>"
            ));
            if let Health::Initial(left) = health {
                *health = left.checked_sub(1).map_or(Health::Healthy, Health::Initial);
            }
        }
        format!("<TargetHealthDescriptions>{members}</TargetHealthDescriptions>")
    }

    fn add_tags(&self, form: &BTreeMap<String, String>) -> String {
        let (key, value) = (&form["Tags.member.1.Key"], &form["Tags.member.1.Value"]);
        let allowed = |c: char| c.is_alphanumeric() || "+-=._:/@ ".contains(c);
        assert!(value.len() <= 256 && value.chars().all(allowed), "no tag of AWS: {value}");
        self.tag(key, value);
        String::new()
    }

    fn targets(&self, register: bool, form: &BTreeMap<String, String>) -> Result<String, String> {
        let mut inner = self.inner();
        let checks = inner.checks;
        for at in 1.. {
            let field = |name: &str| form.get(&format!("Targets.member.{at}.{name}"));
            let Some(id) = field("Id") else { break };
            let key = (id.clone(), field("Port").unwrap().parse().unwrap());
            if !register {
                // One that is not there is no error.
                if let Some(health) = inner.targets.get_mut(&key) {
                    *health = Health::Draining;
                }
                continue;
            }
            let outside = id.parse::<std::net::IpAddr>().is_ok() && !id.starts_with(VPC);
            if outside != (field("AvailabilityZone").map(String::as_str) == Some("all")) {
                return Err(format!("The IP address '{id}' is not within a range of the VPC"));
            }
            let fresh = checks.checked_sub(1).map_or(Health::Healthy, Health::Initial);
            match inner.targets.get(&key) {
                Some(Health::Healthy | Health::Initial(_) | Health::Unhealthy) => {}
                Some(Health::Draining) | None => drop(inner.targets.insert(key, fresh)),
            }
        }
        Ok(String::new())
    }
}

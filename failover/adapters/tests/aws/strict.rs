//! A strict Route 53: what the real one promises about batches and what it refuses, and every way in which an answer goes
//! astray. Written from its API reference; `moto` is more lenient than the real one, and so no judge of this.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

pub const ZONE: &str = "ha.test.";
pub const ZONE_ID: &str = "Z0123456789ABC";
pub const GOOD_KEY: &str = "AKIDGOODGOODGOODGOOD";
/// Signs well, and may do nothing.
pub const POOR_KEY: &str = "AKIDPOORPOORPOORPOOR";

/// What becomes of a change; listing is honest unless it hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// Refused by this code so often.
    PutOff(&'static str, u32),
    /// Applied, and then nothing is said to anybody any more.
    Swallow,
    /// Applied, and answered so late.
    Late(Duration),
    /// Applied, and answered with 500.
    FailAfter,
    /// Not applied, and answered with 503.
    FailBefore,
    /// Nothing gets there, whatever is asked.
    Hang,
}

/// Name and type, with labels from the right, as Route 53 sorts.
type Key = (Vec<String>, String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub ttl: u32,
    pub values: Vec<String>,
}

#[derive(Debug, Default)]
struct Inner {
    sets: BTreeMap<Key, Set>,
    spoil: Option<Spoil>,
    changes: u32,
    batches: u32,
    /// How often a change is still said to be pending.
    pending: u32,
    /// Refusals come as documents of their own.
    bare: bool,
}

#[derive(Clone)]
pub struct Strict {
    pub address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

impl Strict {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let strict = Self { address: listener.local_addr().unwrap(), inner: Arc::default() };
        let app = Router::new().fallback(serve).with_state(strict.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        strict
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn spoil(&self, spoil: Option<Spoil>) {
        self.inner().spoil = spoil;
    }

    pub fn pending(&self, times: u32) {
        self.inner().pending = times;
    }

    pub fn bare(&self, bare: bool) {
        self.inner().bare = bare;
    }

    /// Batches that were applied, and that arrived.
    pub fn applied(&self) -> (u32, u32) {
        let inner = self.inner();
        (inner.changes, inner.batches)
    }

    pub fn get(&self, name: &str, kind: &str) -> Option<Set> {
        self.inner().sets.get(&key(name, kind)).cloned()
    }

    /// Edits by hand, as people do in the console.
    pub fn edit(&self, name: &str, kind: &str, set: Option<Set>) {
        let mut inner = self.inner();
        match set {
            Some(set) => inner.sets.insert(key(name, kind), set),
            None => inner.sets.remove(&key(name, kind)),
        };
    }
}

fn key(name: &str, kind: &str) -> Key {
    let labels = name.trim_end_matches('.').to_ascii_lowercase();
    (labels.rsplit('.').map(str::to_owned).collect(), kind.to_owned())
}

fn name_of(key: &Key) -> String {
    let labels: Vec<_> = key.0.iter().rev().map(String::as_str).collect();
    format!("{}.", labels.join("."))
}

async fn serve(State(strict): State<Strict>, request: Request) -> Response {
    let hangs = || matches!(strict.inner().spoil, Some(Spoil::Hang));
    if hangs() {
        std::future::pending::<()>().await;
    }
    let signed =
        request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if signed.contains(&format!("Credential={POOR_KEY}/")) {
        let who = "User: arn:aws:iam::123456789012:user/poor is not authorized";
        return error(StatusCode::FORBIDDEN, "AccessDenied", who);
    }
    if !signed.contains(&format!("Credential={GOOD_KEY}/")) {
        return error(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", &format!("should have been: {signed}"));
    }
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    if let Some(change) = path.strip_prefix("/2013-04-01/change/") {
        return strict.status(change);
    }
    if path != format!("/2013-04-01/hostedzone/{ZONE_ID}/rrset") {
        return error(StatusCode::NOT_FOUND, "NoSuchHostedZone", "No hosted zone found with that id");
    }
    if request.method() == "GET" {
        return strict.list(&query);
    }
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    strict.change(std::str::from_utf8(&body).unwrap()).await
}

fn xml(status: StatusCode, body: String) -> Response {
    (status, [("content-type", "text/xml")], format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}"))
        .into_response()
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let body = format!(
        "<ErrorResponse xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>{}</Message></Error><RequestId>1</RequestId></ErrorResponse>",
        escape(message)
    );
    xml(status, body)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

fn unescape(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

/// The insides of all elements of this name.
fn elements<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    text.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap()).collect()
}

impl Strict {
    fn status(&self, change: &str) -> Response {
        let mut inner = self.inner();
        let pending = inner.pending > 0;
        inner.pending = inner.pending.saturating_sub(1);
        let status = if pending { "PENDING" } else { "INSYNC" };
        xml(StatusCode::OK, format!("<GetChangeResponse>{}</GetChangeResponse>", info(change, status)))
    }

    fn list(&self, query: &str) -> Response {
        let value = |wanted: &str| {
            query
                .split('&')
                .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == wanted))
                .map(|(_, v)| v)
        };
        let from =
            key(&value("name").unwrap_or_default().replace("%2E", "."), value("type").unwrap_or_default());
        let most: usize = value("maxitems").unwrap().parse().unwrap();
        let inner = self.inner();
        let mut body = String::from("<ListResourceRecordSetsResponse><ResourceRecordSets>");
        let mut rest = inner.sets.range(from..);
        for (key, set) in rest.by_ref().take(most) {
            let values: String = set
                .values
                .iter()
                .map(|value| format!("<ResourceRecord><Value>{}</Value></ResourceRecord>", escape(value)))
                .collect();
            body.push_str(&format!(
                "<ResourceRecordSet><Name>{}</Name><Type>{}</Type><TTL>{}</TTL><ResourceRecords>{values}\
                 </ResourceRecords></ResourceRecordSet>",
                name_of(key),
                key.1,
                set.ttl
            ));
        }
        let next = rest.next().map(|(key, _)| {
            format!(
                "<NextRecordName>{}</NextRecordName><NextRecordType>{}</NextRecordType>",
                name_of(key),
                key.1
            )
        });
        body.push_str(&format!(
            "</ResourceRecordSets><IsTruncated>{}</IsTruncated>{}<MaxItems>{most}</MaxItems></ListResourceRecordSetsResponse>",
            next.is_some(),
            next.unwrap_or_default()
        ));
        xml(StatusCode::OK, body)
    }

    async fn change(&self, body: &str) -> Response {
        let spoil = {
            let mut inner = self.inner();
            inner.batches += 1;
            if let Some(Spoil::PutOff(_, left)) = &mut inner.spoil {
                if *left == 0 {
                    inner.spoil = None;
                } else {
                    *left -= 1;
                }
            }
            inner.spoil
        };
        match spoil {
            Some(Spoil::PutOff(code, _)) => return error(StatusCode::BAD_REQUEST, code, "Rate exceeded"),
            Some(Spoil::FailBefore) => {
                self.spoil(None);
                return error(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "");
            }
            Some(Spoil::Swallow | Spoil::Late(_) | Spoil::FailAfter | Spoil::Hang) | None => {}
        }
        let answer = self.apply(body);
        match spoil {
            Some(Spoil::Swallow) => {
                self.spoil(Some(Spoil::Hang));
                std::future::pending().await
            }
            Some(Spoil::Late(by)) => {
                self.spoil(None);
                tokio::time::sleep(by).await;
                answer
            }
            Some(Spoil::FailAfter) => {
                self.spoil(None);
                error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "")
            }
            Some(Spoil::PutOff(..) | Spoil::FailBefore | Spoil::Hang) | None => answer,
        }
    }

    /// All or nothing.
    fn apply(&self, body: &str) -> Response {
        let mut inner = self.inner();
        let mut sets = inner.sets.clone();
        let mut wrong = Vec::new();
        for change in elements(body, "Change") {
            let field = |name: &str| unescape(elements(change, name)[0]);
            let (name, kind) = (field("Name"), field("Type"));
            let mut values: Vec<_> = elements(change, "Value").into_iter().map(unescape).collect();
            values.sort();
            let set = Set { ttl: field("TTL").parse().unwrap(), values };
            if let Err(what) = one(&mut sets, &field("Action"), &name, &kind, set) {
                wrong.push(what);
            }
        }
        if !wrong.is_empty() {
            if inner.bare {
                let messages: String =
                    wrong.iter().map(|what| format!("<Message>{what}</Message>")).collect();
                let body =
                    format!("<InvalidChangeBatch><Messages>{messages}</Messages></InvalidChangeBatch>");
                return xml(StatusCode::BAD_REQUEST, body);
            }
            return error(StatusCode::BAD_REQUEST, "InvalidChangeBatch", &format!("[{}]", wrong.join(", ")));
        }
        inner.sets = sets;
        inner.changes += 1;
        let info = info(&format!("C{}", inner.changes), "PENDING");
        xml(
            StatusCode::OK,
            format!("<ChangeResourceRecordSetsResponse>{info}</ChangeResourceRecordSetsResponse>"),
        )
    }
}

fn info(change: &str, status: &str) -> String {
    format!(
        "<ChangeInfo><Id>/change/{change}</Id><Status>{status}</Status><SubmittedAt>2026-01-01T00:00:00Z</SubmittedAt></ChangeInfo>"
    )
}

/// One change, on the state that those before it in the batch left.
fn one(sets: &mut BTreeMap<Key, Set>, action: &str, name: &str, kind: &str, set: Set) -> Result<(), String> {
    let key = key(name, kind);
    let what = format!("resource record set [name='{name}', type='{kind}']");
    if !format!(".{name}").ends_with(&format!(".{ZONE}")) {
        return Err(format!("RRSet with DNS name {name} is not permitted in zone {ZONE}"));
    }
    match action {
        "DELETE" => match sets.get(&key) {
            None => Err(format!("Tried to delete {what} but it was not found")),
            Some(stands) => {
                let mut values = stands.values.clone();
                values.sort();
                if (stands.ttl, &values) != (set.ttl, &set.values) {
                    return Err(format!(
                        "Tried to delete {what} but the values provided do not match the current values"
                    ));
                }
                sets.remove(&key);
                Ok(())
            }
        },
        "CREATE" => {
            if sets.contains_key(&key) {
                return Err(format!("Tried to create {what} but it already exists"));
            }
            let beside = |other: &&Key| other.0 == key.0 && (other.1 == "CNAME" || kind == "CNAME");
            if sets.keys().any(|other| beside(&other)) {
                return Err(format!(
                    "RRSet of type {kind} with DNS name {name} is not permitted as it conflicts"
                ));
            }
            sets.insert(key, set);
            Ok(())
        }
        other => Err(format!("{other} compares nothing")),
    }
}

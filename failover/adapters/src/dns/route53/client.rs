//! The three requests that are made of Route 53, one at a time.

use std::time::Instant;

use aws_sdk_route53::operation::change_resource_record_sets::ChangeResourceRecordSetsError;
use aws_sdk_route53::operation::get_change::GetChangeError;
use aws_sdk_route53::operation::list_resource_record_sets::ListResourceRecordSetsError;
use aws_sdk_route53::types::{ChangeBatch, ChangeStatus, ResourceRecordSet};
use tokio::sync::OnceCell;

use crate::aws::{Access, Account, Again, CallError, Rights, patiently, rights};

/// Records in one answer: the name, its marker and their neighbours.
const PAGE: i32 = 100;

/// A hosted zone at the API.
#[derive(Debug)]
pub(super) struct Client {
    id: String,
    account: Account,
    client: OnceCell<aws_sdk_route53::Client>,
}

impl Client {
    pub(super) fn new(id: String, access: Access) -> Self {
        Self { id, account: Account::new(access), client: OnceCell::new() }
    }

    async fn client(&self) -> &aws_sdk_route53::Client {
        self.client.get_or_init(|| async { aws_sdk_route53::Client::new(self.account.config().await) }).await
    }

    /// The records from a name on, in Route 53's order, and whether the zone ends with them. All records of the name itself
    /// are among them.
    pub(super) async fn list(
        &self,
        name: &str,
        deadline: Instant,
    ) -> Result<(Vec<ResourceRecordSet>, bool), CallError> {
        let client = self.client().await;
        let mut found = Vec::new();
        let (mut kind, mut identifier) = (None, None);
        loop {
            let page = patiently::<_, ListResourceRecordSetsError, _>(Again::Failed, deadline, || {
                client
                    .list_resource_record_sets()
                    .hosted_zone_id(&self.id)
                    .start_record_name(name)
                    .set_start_record_type(kind.clone())
                    .set_start_record_identifier(identifier.clone())
                    .max_items(PAGE)
                    .send()
            });
            let page = page.await?;
            found.extend_from_slice(page.resource_record_sets());
            if !page.is_truncated() {
                return Ok((found, true));
            }
            let goes_on = page.next_record_name().is_some_and(|next| next.eq_ignore_ascii_case(name));
            if !goes_on {
                return Ok((found, false));
            }
            kind = page.next_record_type().cloned();
            identifier = page.next_record_identifier().map(str::to_owned);
        }
    }

    /// Sends one batch; the number under which Route 53 spreads it.
    pub(super) async fn change(
        &self,
        batch: ChangeBatch,
        deadline: Instant,
    ) -> Result<Option<String>, CallError> {
        let client = self.client().await;
        let done = patiently::<_, ChangeResourceRecordSetsError, _>(Again::NotDone, deadline, || {
            client.change_resource_record_sets().hosted_zone_id(&self.id).change_batch(batch.clone()).send()
        });
        let done = done.await?;
        Ok(done.change_info().map(|change| change.id().trim_start_matches("/change/").to_owned()))
    }

    /// How far a batch has spread.
    pub(super) async fn status(&self, change: &str, deadline: Instant) -> Result<ChangeStatus, CallError> {
        let client = self.client().await;
        let asked = patiently::<_, GetChangeError, _>(Again::Failed, deadline, || {
            client.get_change().id(change).send()
        });
        Ok(asked.await?.change_info().map_or(ChangeStatus::Pending, |change| change.status().clone()))
    }
}

/// What to do about a refusal, and whether repeating it is useless.
pub(super) fn hint(code: &str) -> (&'static str, bool) {
    match rights(code) {
        Some(Rights::Signature) => (
            "check the credentials of its [[route53]] section, and that this host's clock is right to five minutes",
            true,
        ),
        Some(Rights::Action) => (
            "allow its credentials route53:ListResourceRecordSets and route53:ChangeResourceRecordSets on the hosted zone, and \
             route53:GetChange",
            true,
        ),
        None if code == "NoSuchHostedZone" => ("check `hosted_zone` of its [[route53]] section", true),
        None => ("look at what it says, and at the service's health page", false),
    }
}

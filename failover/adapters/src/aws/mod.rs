//! What every call to AWS shares: whose credentials sign it, how long it may take, and what its failure means.
//!
//! Each call is one request: the SDK repeats nothing by itself, because whether a change may be repeated is known only
//! to the adapter that made it. [`patiently`] repeats what AWS certainly did not do.
//!
//! It never keeps credentials: a file with them is read for each call, so that new ones are taken without a restart. They
//! reach no error, no log and no argument list.

mod call;
mod credentials;

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use tokio::sync::OnceCell;

pub(crate) use call::{Again, Rights, patiently, rights};
pub use call::{CallError, Silent};
pub use credentials::{CredentialsError, CredentialsFrom, check as check_file};

use self::credentials::FromFile;

/// Which API, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The region that requests are signed for.
    pub region: String,
    /// Another address of the API than the region's own: an endpoint in a VPC, or a server in tests.
    pub endpoint: Option<String>,
    /// Where the credentials come from.
    pub credentials: CredentialsFrom,
}

/// An account as one section of the agent's file describes it.
#[derive(Debug)]
pub(crate) struct Account {
    access: Access,
    config: OnceCell<SdkConfig>,
}

impl Account {
    pub(crate) fn new(access: Access) -> Self {
        Self { access, config: OnceCell::new() }
    }

    /// What clients are made of; connections and the trust store are shared by all calls. Nothing is sent for it.
    pub(crate) async fn config(&self) -> &SdkConfig {
        self.config.get_or_init(|| self.load()).await
    }

    async fn load(&self) -> SdkConfig {
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder().connect_timeout(call::CONNECT).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(self.access.region.clone()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(endpoint) = &self.access.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        match &self.access.credentials {
            CredentialsFrom::File(path) => {
                let provider = FromFile::new(path.clone());
                loader.credentials_provider(provider).identity_cache(IdentityCache::no_cache()).load().await
            }
            CredentialsFrom::Chain => loader.load().await,
        }
    }
}

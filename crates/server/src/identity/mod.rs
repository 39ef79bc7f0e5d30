//! Who is who: the cluster's CA, tokens, and from them the user of a connection.

mod authenticate;
mod authority;
mod bootstrap_token;
mod certificates;
pub(crate) mod last_use;
mod request;
mod secret_token;
mod server_id;
mod service_account;

pub(crate) use authenticate::{Authenticated, Authenticator, Credentials};
pub use authority::{Authority, IdentityError, Issued, write_private};
pub(crate) use authority::{ClusterKeys, SERVER_USER, SERVERS};
pub(crate) use bootstrap_token::{JOIN_GROUP, SERVER_GROUP, Usage, create_token};
pub(crate) use certificates::{Certificates, Wanted};
pub(crate) use last_use::LastUse;
pub use server_id::{ServerId, SharedSettings};
pub(crate) use service_account::{Bound, ServiceAccountTokens, TokenRequest, bindable};

//! Who is who: the cluster's CA, tokens, and from them the user of a connection.

mod authenticate;
mod authority;
mod bootstrap_token;
mod service_account;

pub(crate) use authenticate::{Authenticated, Authenticator, Credentials};
pub use authority::{Authority, IdentityError, Issued, write_private};
pub(crate) use bootstrap_token::{JOIN_GROUP, create_token};
pub(crate) use service_account::{ServiceAccountTokens, TokenRequest};

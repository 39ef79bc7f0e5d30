//! Manifests from the web: a GET by http or https, which goes where it is sent on to.
//!
//! Over https a server has to be known to the authorities that this machine trusts, or to those in the file that
//! `SSL_CERT_FILE` names. Proxies are not asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use balsa_rt::{TaskKind, spawn};
use bytes::Bytes;
use http::header::{HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often one is sent on, at most.
const REDIRECTS: usize = 10;
/// The largest answer in bytes: more than any server takes in objects at once.
const LARGEST: usize = 32 << 20;
/// Where systems keep the certificates of the authorities that they trust.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The address that a `-f` names, if it is one in the web.
pub(crate) fn url(file: &Path) -> Option<&str> {
    file.to_str().filter(|text| text.starts_with("http://") || text.starts_with("https://"))
}

/// What is there.
pub(crate) async fn fetch(url: &str) -> anyhow::Result<String> {
    let failed = || format!("unable to read URL \"{url}\"");
    let late = || format!("no whole answer in {} seconds", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, follow(url))
        .await
        .unwrap_or_else(|_| Err(anyhow!(late())))
        .with_context(failed)
}

async fn follow(url: &str) -> anyhow::Result<String> {
    let mut uri: Uri = url.parse()?;
    for _ in 0..=REDIRECTS {
        let answer = get(&uri).await?;
        let status = answer.status();
        if status.is_redirection() {
            uri = sent_on(&uri, answer.headers())?;
            continue;
        }
        if !status.is_success() {
            bail!("server reported {status}");
        }
        let body =
            Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|error| anyhow!("{error}"))?;
        return String::from_utf8(body.to_bytes().into()).context("it is no text");
    }
    bail!("stopped after {REDIRECTS} redirects")
}

/// Where an answer sends its reader.
fn sent_on(from: &Uri, headers: &HeaderMap) -> anyhow::Result<Uri> {
    let to = headers.get(LOCATION).context("it is elsewhere, and the server does not say where")?;
    let to = to.to_str().context("where it is")?;
    if to.contains("://") {
        return Ok(to.parse()?);
    }
    let mut parts = from.clone().into_parts();
    let path = match to.strip_prefix('/') {
        Some(_) => to.to_owned(),
        None => format!("{}/{to}", from.path().rsplit_once('/').unwrap_or_default().0),
    };
    parts.path_and_query = Some(path.parse()?);
    Ok(Uri::from_parts(parts)?)
}

async fn get(uri: &Uri) -> anyhow::Result<Response<Incoming>> {
    let (usual, secure) = match uri.scheme_str() {
        Some("http") => (80, false),
        Some("https") => (443, true),
        _ => bail!("{uri} is neither http nor https"),
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(usual);
    let stream = TcpStream::connect((host.as_str(), port)).await.with_context(|| format!("{host}:{port}"))?;
    if !secure {
        return ask(stream, uri).await;
    }
    let name = ServerName::try_from(host)?;
    ask(TlsConnector::from(Arc::new(trust()?)).connect(name, stream).await?, uri).await
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    uri: &Uri,
) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // What goes wrong with it is told to the one who asks, too.
    spawn(TaskKind::Helper, async move { drop(connection.await) });
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, host).header(USER_AGENT, "balsa");
    Ok(sender.send_request(request.body(Empty::<Bytes>::new())?).await?)
}

/// Whom to believe that a server is who it says.
fn trust() -> anyhow::Result<ClientConfig> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = || AUTHORITIES.iter().map(PathBuf::from).find(|path| path.is_file());
    let path = named.or_else(usual).context(
        "this machine has no certificates of authorities (Debian: ca-certificates); SSL_CERT_FILE may name some",
    )?;
    let context = || format!("the certificates in {}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&path).with_context(context)? {
        // A bundle may have some that are no authorities.
        roots.add_parsable_certificates([certificate.with_context(context)?]);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_told_from_files() {
        for (file, is_one) in [
            ("http://a/b.yaml", true),
            ("https://a:1/b", true),
            ("a.yaml", false),
            ("ftp://a/b", false),
            ("httpd.yaml", false),
        ] {
            assert_eq!(url(Path::new(file)).is_some(), is_one, "{file}");
        }
    }

    #[test]
    fn one_is_sent_anywhere() {
        let from: Uri = "http://a:80/b/c?d".parse().unwrap();
        for (to, wanted) in
            [("https://x/y", "https://x/y"), ("/e?f", "http://a:80/e?f"), ("g", "http://a:80/b/g")]
        {
            let headers = HeaderMap::from_iter([(LOCATION, to.parse().unwrap())]);
            assert_eq!(sent_on(&from, &headers).unwrap().to_string(), wanted);
        }
        assert!(sent_on(&from, &HeaderMap::new()).is_err());
    }
}

//! Manifests by their address: `-f http://…`, `-f https://…`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use balsa_testkit::{Cluster, balsa, decode_base64};
use serde_json::Value;

const KITE: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kite}\ndata: {tail: long}\n";

pub(crate) fn manifests_are_fetched(cluster: &Cluster) {
    let address = serve();
    let at = |path: &str| format!("http://{address}/{path}");
    assert_eq!(cluster.balsa(["apply", "-f", &at("kite.yaml")]).ok(), "configmap/kite created\n");
    assert_eq!(cluster.balsa(["apply", "-f", &at("deep/moved")]).ok(), "configmap/kite unchanged\n");
    assert_eq!(cluster.balsa(["get", "-o", "name", "-f", &at("kite.yaml")]).ok(), "configmap/kite\n");
    for (url, why) in [
        (at("nothing"), "server reported 404 Not Found"),
        (at("round"), "stopped after 10 redirects"),
        (at("page"), "is not an object"),
        ("http://127.0.0.1:1/kite.yaml".to_owned(), "onnection refused"),
        (format!("https://{address}/kite.yaml"), "unable to read URL \"https://"),
        // A server whose authority nobody here knows.
        (format!("https://{}/version", cluster.address()), "invalid peer certificate"),
    ] {
        let said = cluster.balsa(["apply", "-f", &url]).fails();
        assert!(said.contains(why) && said.contains(&url), "{url}: {said}");
    }
    an_authority_may_be_named(cluster);
    assert_eq!(cluster.balsa(["delete", "-f", &at("kite.yaml")]).ok(), "configmap \"kite\" deleted\n");
}

/// What is there is no manifest, but it was read.
fn an_authority_may_be_named(cluster: &Cluster) {
    let text = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let kubeconfig: Value = serde_yaml_ng::from_str(&text).unwrap();
    let authority = kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), decode_base64(authority)).unwrap();
    let url = format!("https://{}/version", cluster.address());
    let said = cluster.program(balsa(), ["apply", "-f", &url], &[("SSL_CERT_FILE", file.path())]).fails();
    assert!(said.contains("apiVersion not set"), "{said}");
    let missing = [("SSL_CERT_FILE", Path::new("/nothing/ca.pem"))];
    let said = cluster.program(balsa(), ["apply", "-f", &url], &missing).fails();
    assert!(said.contains("the certificates in /nothing/ca.pem"), "{said}");
}

/// A server that ends with the test.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who asks otherwise than expected finds out by the end of the connection.
            answer(stream).ok();
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let (head, body) = match request.split(' ').nth(1).unwrap_or_default() {
        "/kite.yaml" => ("200 OK", KITE),
        "/page" => ("200 OK", "no manifest"),
        "/deep/moved" => ("302 Found\r\nLocation: ../kite.yaml", ""),
        "/deep/../kite.yaml" => ("301 Moved Permanently\r\nLocation: /kite.yaml", ""),
        "/round" => ("307 Temporary Redirect\r\nLocation: round", ""),
        _ => ("404 Not Found", "nothing here"),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

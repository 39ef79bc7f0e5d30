//! One run of one case against the server.

use std::time::{Duration, Instant};

use balsa_testkit::{Connection, Rest};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::case::{Case, Names, Step};

/// What may stand in a path as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b':')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b'~')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_');

/// How long a request is repeated that waits for something.
const PATIENCE: Duration = Duration::from_secs(15);
/// The quiet after which a watch that has told what was expected has told all.
const QUIET: Duration = Duration::from_millis(400);

/// What one step was answered.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) content_type: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) body: Option<Value>,
    pub(crate) text: Option<String>,
    pub(crate) events: Option<Vec<Value>>,
}

pub(crate) struct Run<'a> {
    pub(crate) case: &'a Case,
    pub(crate) names: Names,
    pub(crate) answers: Vec<(&'a Step, Answer)>,
    rest: &'a Rest,
    connection: Connection,
    created: Vec<String>,
}

impl<'a> Run<'a> {
    pub(crate) async fn new(rest: &'a Rest, case: &'a Case) -> anyhow::Result<Self> {
        let word = |length| balsa_rt::random_suffix(length).replace(|c: char| c.is_ascii_digit(), "k");
        let names = Names {
            namespace: format!("gold-{}", word(8)),
            word: format!("x{}", word(7)),
            ..Names::default()
        };
        let connection = rest.connect().await?;
        Ok(Self { case, names, answers: Vec::new(), rest, connection, created: Vec::new() })
    }

    /// All steps; what was made is taken away whatever comes of them.
    pub(crate) async fn all(&mut self) -> anyhow::Result<()> {
        let namespace = format!("/api/v1/namespaces/{}", self.names.namespace);
        if self.case.namespace {
            let body =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.names.namespace}});
            let made = self.plain(Method::POST, "/api/v1/namespaces", "application/json", &body).await?;
            anyhow::ensure!(made.0 == 201, "the namespace cannot be made: {}", made.0);
            let account = format!("{namespace}/serviceaccounts/default");
            let deadline = Instant::now() + PATIENCE;
            while self.plain(Method::GET, &account, "", &Value::Null).await?.0 != 200 {
                anyhow::ensure!(Instant::now() < deadline, "there is no default service account");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let mut outcome = Ok(());
        for step in &self.case.steps {
            outcome = self.one(step).await;
            if outcome.is_err() {
                break;
            }
        }
        for path in std::mem::take(&mut self.created).into_iter().rev() {
            let (code, body) = self.plain(Method::DELETE, &path, "", &Value::Null).await?;
            if code == 200 && body.pointer("/metadata/finalizers").is_some() {
                let bare = json!({"metadata": {"finalizers": null}});
                self.plain(Method::PATCH, &path, "application/merge-patch+json", &bare).await?;
            }
        }
        if self.case.namespace {
            self.plain(Method::DELETE, &namespace, "", &Value::Null).await?;
        }
        outcome
    }

    async fn plain(
        &mut self,
        method: Method,
        path: &str,
        media_type: &str,
        body: &Value,
    ) -> anyhow::Result<(u16, Value)> {
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let mut request = Request::builder().method(method).uri(path).header("user-agent", "golden/1.0");
        if !media_type.is_empty() {
            request = request.header("content-type", media_type);
        }
        let response = self.connection.exchange(request.body(bytes)?).await?;
        let code = response.status().as_u16();
        Ok((code, serde_json::from_slice(response.body()).unwrap_or_default()))
    }

    async fn one(&mut self, step: &'a Step) -> anyhow::Result<()> {
        tokio::time::sleep(Duration::from_secs_f64(step.sleep)).await;
        let answer = match &step.watch {
            Some(_) => self.watch(step).await?,
            None => self.until(step).await?,
        };
        let raw = match (&answer.events, &answer.body) {
            (Some(events), _) => events.clone().into(),
            (None, Some(body)) => body.clone(),
            (None, None) => Value::Null,
        };
        self.remember_created(step, answer.code, &raw);
        self.names.answers.insert(step.id.clone(), raw);
        self.answers.push((step, answer));
        Ok(())
    }

    fn remember_created(&mut self, step: &Step, code: u16, body: &Value) {
        let path = &step.path;
        let parts = path.matches('/').count();
        let is_collection = parts == if path.starts_with("/api/") { 3 } else { 4 };
        let name = body.pointer("/metadata/name").and_then(Value::as_str);
        if code != 201 {
        } else if step.method == "POST"
            && is_collection
            && !path.ends_with("reviews")
            && !step.query.contains_key("dryRun")
        {
            self.created.extend(name.map(|name| format!("{path}/{name}")));
        } else if step.method == "PATCH" && !path.contains("/namespaces/") {
            self.created.push(self.names.text(path));
        }
    }

    async fn until(&mut self, step: &Step) -> anyhow::Result<Answer> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let response = self.connection.exchange(self.request(step)?).await?;
            let answer = read(&response);
            let Some(until) = &step.until else { return Ok(answer) };
            let reached = until.code == Some(answer.code)
                || until.path.as_ref().is_some_and(|path| {
                    answer.body.as_ref().and_then(|body| body.pointer(path)) == until.equals.as_ref()
                });
            if reached || Instant::now() > deadline {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn watch(&mut self, step: &Step) -> anyhow::Result<Answer> {
        let Some(wanted) = &step.watch else { anyhow::bail!("no watch") };
        let (parts, mut watch) = self.rest.stream(self.request(step)?).await?;
        let content_type = header(&parts.headers, "content-type");
        let deadline = tokio::time::Instant::now() + Duration::from_secs_f64(wanted.seconds);
        let mut events = Vec::new();
        while events.len() < wanted.events + 5 {
            let quiet = tokio::time::Instant::now() + QUIET;
            let limit = if events.len() >= wanted.events { deadline.min(quiet) } else { deadline };
            match tokio::time::timeout_at(limit, watch.next()).await {
                Ok(Ok(Some(event))) => events.push(event),
                _ => break,
            }
        }
        let code = parts.status.as_u16();
        let is_stream = code == 200 && events.first().is_none_or(|event| event.get("type").is_some());
        let (body, events) = if is_stream { (None, Some(events)) } else { (events.into_iter().next(), None) };
        Ok(Answer { code, content_type, warnings: Vec::new(), body, text: None, events })
    }

    fn request(&self, step: &Step) -> anyhow::Result<Request<Bytes>> {
        let path = self.names.text(&step.path);
        let mut url = utf8_percent_encode(&path, PATH).to_string();
        if !step.query.is_empty() {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            for (name, value) in &step.query {
                let value = self.names.fill(value);
                query.append_pair(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            }
            url = format!("{url}?{}", query.finish());
        }
        let mut request = Request::builder().method(step.method.as_str()).uri(url);
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", "golden/1.0".parse()?);
        headers.insert("accept", accept(step.accept.as_deref().unwrap_or("json")).parse()?);
        for (name, value) in &step.headers {
            let name: http::HeaderName = name.parse()?;
            headers.insert(name, self.names.text(value.as_str().unwrap_or_default()).parse()?);
        }
        let body = match (&step.raw, &step.body) {
            (Some(raw), _) => Some(self.names.text(raw)),
            (None, Some(body)) => Some(self.names.fill(body).to_string()),
            (None, None) => None,
        };
        if body.is_some() || matches!(step.method.as_str(), "POST" | "PUT" | "PATCH") {
            headers.insert("content-type", media(step.media_type.as_deref().unwrap_or("json")).parse()?);
        }
        if let Some(all) = request.headers_mut() {
            all.extend(headers);
        }
        Ok(request.body(body.unwrap_or_default().into())?)
    }
}

fn header(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn read(response: &http::Response<Bytes>) -> Answer {
    let bytes = response.body();
    let body: Option<Value> = serde_json::from_slice(bytes).ok();
    let text = body.is_none() && !bytes.is_empty();
    let warnings = response.headers().get_all("warning").iter();
    Answer {
        code: response.status().as_u16(),
        content_type: header(response.headers(), "content-type"),
        warnings: warnings.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect(),
        text: text.then(|| String::from_utf8_lossy(bytes).into_owned()),
        body,
        events: None,
    }
}

fn media(short: &str) -> &str {
    match short {
        "json" => "application/json",
        "yaml" => "application/yaml",
        "merge" => "application/merge-patch+json",
        "jsonpatch" => "application/json-patch+json",
        "strategic" => "application/strategic-merge-patch+json",
        "apply" => "application/apply-patch+yaml",
        other => other,
    }
}

fn accept(short: &str) -> &str {
    match short {
        "table" => "application/json;as=Table;v=v1;g=meta.k8s.io",
        "pom" => "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        "pomlist" => "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        other => media(other),
    }
}

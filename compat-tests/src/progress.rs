//! The stream of JSON documents by which `pull`, `push` and `load` tell how they go.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::host::Host;
use crate::http;

/// What a pull or push answered.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Status code.
    pub status: u16,
    /// The documents, in their order. An error that came before the stream is one of them.
    pub documents: Vec<Value>,
}

impl Progress {
    /// Asks for it and reads it to its end. `credentials` is the value of `X-Registry-Auth`.
    pub fn of(host: &Host, path: &str, credentials: Option<&str>) -> Result<Self> {
        let headers: Vec<(&str, &str)> = credentials.iter().map(|value| ("X-Registry-Auth", *value)).collect();
        let answer = http::request(&host.socket, "POST", path, &headers, b"")?;
        ensure!(
            answer.header("content-type") == "application/json",
            "{path} answers {}",
            answer.header("content-type")
        );
        let text = String::from_utf8(answer.body).context("the stream")?;
        if answer.status == 200 {
            ensure!(text.is_empty() || text.ends_with("\r\n"), "a document is not ended: {text:?}");
        }
        let lines = text.lines().filter(|line| !line.is_empty());
        let documents = lines.map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line:?}")));
        Ok(Self { status: answer.status, documents: documents.collect::<Result<_>>()? })
    }

    /// `POST /images/create` for a reference with tag or digest.
    pub fn of_pull(host: &Host, name: &str, tag: &str) -> Result<Self> {
        Self::of(host, &format!("/images/create?fromImage={name}&tag={tag}"), None)
    }

    /// `POST /images/NAME/push`.
    pub fn of_push(host: &Host, name: &str, tag: &str) -> Result<Self> {
        // `{}` in base64.
        Self::of(host, &format!("/images/{name}/push?tag={tag}"), Some("e30="))
    }

    /// Its error's message, empty if there is none.
    pub fn error(&self) -> &str {
        let last = self.documents.last();
        let message = last.and_then(|last| last.pointer("/errorDetail/message").or_else(|| last.get("message")));
        message.and_then(Value::as_str).unwrap_or_default()
    }

    /// Status texts that belong to no layer, with `id: ` before them where there is an id.
    pub fn lines(&self, layers: &[String]) -> Vec<String> {
        let outside = self
            .documents
            .iter()
            .filter(|document| !document["id"].as_str().is_some_and(|id| layers.iter().any(|layer| layer == id)));
        let line = |document: &Value| {
            let status = document["status"].as_str()?;
            Some(document["id"].as_str().map_or_else(|| status.to_owned(), |id| format!("{id}: {status}")))
        };
        outside.filter_map(line).collect()
    }

    /// The status texts of each layer in their order, one that follows itself once.
    pub fn of_layers(&self, layers: &[String]) -> BTreeMap<String, Vec<String>> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for document in &self.documents {
            let Some((id, status)) = document["id"].as_str().zip(document["status"].as_str()) else { continue };
            if layers.iter().any(|layer| layer == id) {
                let list = all.entry(id.to_owned()).or_default();
                if list.last().is_none_or(|last| last != status) {
                    list.push(status.to_owned());
                }
            }
        }
        all
    }

    /// The layers for which a status text came, in the order in which it first did.
    pub fn order_of(&self, status: &str) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let with_status = self.documents.iter().filter(|document| document["status"] == status);
        for id in with_status.filter_map(|document| document["id"].as_str()) {
            if !out.iter().any(|known| known == id) {
                out.push(id.to_owned());
            }
        }
        out
    }

    /// Holds a stream to what is true of every pull that fetches `layers`, named bottom first.
    pub fn check_pull(&self, layers: &[String]) -> Result<()> {
        ensure!(self.status == 200 && self.error().is_empty(), "{self:?}");
        self.check_forms()?;
        let stages = [
            "Pulling fs layer",
            "Waiting",
            "Downloading",
            "Verifying Checksum",
            "Download complete",
            "Extracting",
            "Pull complete",
        ];
        for (id, seen) in self.of_layers(layers) {
            let places: Option<Vec<usize>> =
                seen.iter().map(|status| stages.iter().position(|stage| stage == status)).collect();
            let places = places.with_context(|| format!("{id}: {seen:?}"))?;
            ensure!(places.is_sorted_by(|a, b| a < b), "{id}: {seen:?}");
            // Those between may be left out: a newer message takes the place of one that was not sent yet.
            let (first, last) = (seen.first().map(String::as_str), seen.last().map(String::as_str));
            ensure!((first, last) == (Some("Pulling fs layer"), Some("Pull complete")), "{id}: {seen:?}");
            ensure!(seen.iter().any(|status| status == "Download complete"), "{id}: {seen:?}");
        }
        for status in ["Pulling fs layer", "Pull complete"] {
            ensure!(self.order_of(status) == layers, "{status}: {:?}, not {layers:?}", self.order_of(status));
        }
        Ok(())
    }

    /// Fields of a document, by what it is.
    fn check_forms(&self) -> Result<()> {
        for document in &self.documents {
            let mut keys: Vec<&str> = document.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
            keys.sort_unstable();
            let expected: &[&[&str]] = &[
                &["status"],
                &["id", "status"],
                &["id", "progressDetail", "status"],
                &["id", "progress", "progressDetail", "status"],
                &["aux", "progressDetail"],
            ];
            ensure!(expected.contains(&&*keys), "{document}");
            let has_counts = document["progressDetail"]["current"].is_u64();
            ensure!(has_counts == document["progress"].is_string(), "{document}");
            ensure!(!has_counts || keys.contains(&"progress"), "{document}");
        }
        Ok(())
    }

    /// Holds a stream to what is true of every push of `layers`, named top first, that ends with `last` for each of them.
    pub fn check_push(&self, layers: &[String], last: &[&str]) -> Result<()> {
        ensure!(self.status == 200 && self.error().is_empty(), "{self:?}");
        self.check_forms()?;
        ensure!(self.order_of("Preparing") == layers, "{:?}, not {layers:?}", self.order_of("Preparing"));
        for (id, seen) in self.of_layers(layers) {
            let ended = seen.last().is_some_and(|seen| last.contains(&seen.as_str()));
            let between = seen.iter().skip(1).rev().skip(1).all(|status| status == "Waiting" || status == "Pushing");
            ensure!(seen.first().is_some_and(|first| first == "Preparing") && ended && between, "{id}: {seen:?}");
        }
        Ok(())
    }
}

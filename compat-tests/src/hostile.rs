//! A registry in memory that does what a test says: by itself it speaks the distribution protocol as it should, and a script
//! may answer any request otherwise. It records what it was asked.
//!
//! The paths and headers are those of the OCI distribution specification, sections pull and push.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use serde_json::json;

use crate::network::Network;
use crate::seed::{Blob, Packed, digest};
use crate::server::{Answer, Request, Server, locked};

/// Answers instead of the registry, where it answers something. The number says how often the same method and path were
/// asked before.
pub type Script = dyn Fn(&Request, usize) -> Option<Answer> + Send + Sync;

/// A registry in memory.
#[derive(Debug)]
pub struct Hostile {
    server: Server,
    content: Arc<Mutex<Content>>,
}

/// What it keeps.
#[derive(Debug, Default)]
pub struct Content {
    /// By repository and tag or digest.
    manifests: BTreeMap<(String, String), Blob>,
    /// By repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// What was uploaded so far, by number.
    uploads: BTreeMap<usize, Vec<u8>>,
    next_upload: usize,
    is_without_ranges: bool,
}

impl Hostile {
    /// One that behaves.
    pub fn tame(network: &Network) -> Result<Self> {
        Self::start(network, |_, _| None)
    }

    /// One that follows a script.
    pub fn start(
        network: &Network,
        script: impl Fn(&Request, usize) -> Option<Answer> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::at(network, "127.0.0.1:0", script)
    }

    /// One that follows a script, at an address of the test's choice.
    pub fn at(
        network: &Network,
        address: &str,
        script: impl Fn(&Request, usize) -> Option<Answer> + Send + Sync + 'static,
    ) -> Result<Self> {
        let content: Arc<Mutex<Content>> = Arc::default();
        let (shared, counts) = (content.clone(), Mutex::new(BTreeMap::<(String, String), usize>::new()));
        let handler = move |request: &Request| {
            let before = {
                let mut counts = locked(&counts);
                let count = counts.entry((request.method.clone(), request.path.clone())).or_default();
                *count += 1;
                *count - 1
            };
            script(request, before).unwrap_or_else(|| locked(&shared).answer(request))
        };
        Ok(Self { server: Server::start(network.listen(address)?, Box::new(handler))?, content })
    }

    /// `ADDRESS:PORT`, which is what its images' names begin with.
    pub fn address(&self) -> &str {
        self.server.address()
    }

    /// The server, which knows what was asked.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Keeps an image; returns its name.
    pub fn put(&self, repository: &str, tag: &str, image: &Packed) -> String {
        for blob in image.layers.iter().chain([&image.config]) {
            self.put_blob(repository, blob);
        }
        self.put_manifest(repository, tag, &image.manifest)
    }

    /// Keeps a manifest or index by its tag and its digest; returns its name.
    pub fn put_manifest(&self, repository: &str, tag: &str, manifest: &Blob) -> String {
        let mut content = locked(&self.content);
        for reference in [tag, &manifest.digest] {
            content.manifests.insert((repository.to_owned(), reference.to_owned()), manifest.clone());
        }
        format!("{}/{repository}:{tag}", self.address())
    }

    /// Keeps a blob.
    pub fn put_blob(&self, repository: &str, blob: &Blob) {
        locked(&self.content).blobs.insert((repository.to_owned(), blob.digest.clone()), blob.bytes.clone());
    }

    /// Answers requests for a range by the whole blob.
    pub fn without_ranges(&self) {
        locked(&self.content).is_without_ranges = true;
    }

    /// A manifest that was pushed.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Blob> {
        locked(&self.content).manifests.get(&(repository.to_owned(), reference.to_owned())).cloned()
    }

    /// Requests for the bytes of `blob` so far, as methods with ranges: `GET`, `GET bytes=5-`, `HEAD`.
    pub fn asked_for(&self, blob: &Blob) -> Vec<String> {
        let requests = self.server.requests().into_iter();
        let of_blob = requests.filter(|request| request.path.ends_with(&format!("/blobs/{}", blob.digest)));
        of_blob.map(|request| format!("{} {}", request.method, request.header("range")).trim().to_owned()).collect()
    }
}

/// An error body as registries have it.
pub fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = json!({"errors": [{"code": code, "message": message}]});
    Answer::new(status, body.to_string()).header("Content-Type", "application/json")
}

impl Content {
    fn answer(&mut self, request: &Request) -> Answer {
        let Some(path) = request.path.strip_prefix("/v2/") else { return Answer::new(404, "") };
        if path.is_empty() {
            return Answer::new(200, "{}").header("Docker-Distribution-API-Version", "registry/2.0");
        }
        let is_read = matches!(request.method.as_str(), "GET" | "HEAD");
        if let Some((repository, reference)) = path.rsplit_once("/manifests/") {
            return if is_read {
                self.read_manifest(repository, reference)
            } else {
                self.write_manifest(repository, reference, request)
            };
        }
        if let Some((repository, upload)) = path.split_once("/blobs/uploads/") {
            return self.upload(repository, upload, request);
        }
        if let Some((repository, digest)) = path.split_once("/blobs/") {
            return self.read_blob(repository, digest, request.header("range"));
        }
        if let Some(repository) = path.strip_suffix("/tags/list") {
            let of_repository = self.manifests.keys().filter(|(known, _)| known == repository);
            let tags: Vec<&String> = of_repository.map(|(_, tag)| tag).filter(|tag| !tag.contains(':')).collect();
            let list = json!({"name": repository, "tags": tags});
            return Answer::new(200, list.to_string()).header("Content-Type", "application/json");
        }
        Answer::new(404, "")
    }

    fn read_manifest(&self, repository: &str, reference: &str) -> Answer {
        match self.manifests.get(&(repository.to_owned(), reference.to_owned())) {
            Some(blob) => Answer::new(200, blob.bytes.clone())
                .header("Content-Type", &blob.media_type)
                .header("Docker-Content-Digest", &blob.digest),
            None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        }
    }

    fn write_manifest(&mut self, repository: &str, reference: &str, request: &Request) -> Answer {
        let blob = Blob::new(request.header("content-type"), request.body.clone());
        for reference in [reference, &blob.digest] {
            self.manifests.insert((repository.to_owned(), reference.to_owned()), blob.clone());
        }
        Answer::new(201, "").header("Docker-Content-Digest", &blob.digest).header("Location", &request.path)
    }

    fn read_blob(&self, repository: &str, digest: &str, range: &str) -> Answer {
        let Some(bytes) = self.blobs.get(&(repository.to_owned(), digest.to_owned())) else {
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let answer = Answer::new(200, bytes.clone()).header("Docker-Content-Digest", digest);
        if self.is_without_ranges {
            return answer;
        }
        let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
            return answer.header("Accept-Ranges", "bytes");
        };
        let first = first.parse().unwrap_or(usize::MAX);
        let end = last.parse().map_or(bytes.len(), |last: usize| bytes.len().min(last.saturating_add(1)));
        let Some(part) = bytes.get(first..end).filter(|part| !part.is_empty()) else {
            return Answer::new(416, "").header("Content-Range", &format!("bytes */{}", bytes.len()));
        };
        Answer::new(206, part).header("Content-Range", &format!("bytes {first}-{}/{}", end - 1, bytes.len()))
    }

    fn upload(&mut self, repository: &str, upload: &str, request: &Request) -> Answer {
        let key = |digest: &str| (repository.to_owned(), digest.to_owned());
        let done = |digest: &str| {
            let location = format!("/v2/{repository}/blobs/{digest}");
            Answer::new(201, "").header("Location", &location).header("Docker-Content-Digest", digest)
        };
        if request.method == "POST" {
            let mount = request.parameter("mount").zip(request.parameter("from"));
            if let Some((digest, from)) = mount
                && let Some(bytes) = self.blobs.get(&(from, digest.clone())).cloned()
            {
                self.blobs.insert(key(&digest), bytes);
                return done(&digest);
            }
            self.next_upload += 1;
            self.uploads.insert(self.next_upload, Vec::new());
            return Self::accepted(repository, self.next_upload, 0);
        }
        let Some((number, sent)) =
            upload.parse().ok().and_then(|number| Some((number, self.uploads.get_mut(&number)?)))
        else {
            return error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
        };
        sent.extend_from_slice(&request.body);
        match request.parameter("digest") {
            Some(wanted) if request.method == "PUT" => {
                let bytes = self.uploads.remove(&number).unwrap_or_default();
                if digest(&bytes) != wanted {
                    return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
                }
                self.blobs.insert(key(&wanted), bytes);
                done(&wanted)
            }
            _ if request.method == "PATCH" => Self::accepted(repository, number, sent.len()),
            _ => Answer::new(405, ""),
        }
    }

    fn accepted(repository: &str, number: usize, length: usize) -> Answer {
        Answer::new(202, "")
            .header("Location", &format!("/v2/{repository}/blobs/uploads/{number}"))
            .header("Docker-Upload-UUID", &number.to_string())
            .header("Range", &format!("0-{}", length.saturating_sub(1)))
    }
}

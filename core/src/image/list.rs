//! `docker images`, `docker history`: from the published index, never from disk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dockerd_image::Image;
use dockerd_types::filters::InvalidFilter;
use dockerd_types::{Digest, ErrorKind, Filters, Kinded, Reference, Timestamp};

use super::ImageService;
use crate::error::EngineError;

/// Filters `list` knows.
pub const FILTERS: [&str; 6] = ["before", "dangling", "label", "reference", "since", "until"];

/// What a list shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Images without a name that others were made from, too.
    pub all: bool,
    /// Count the bytes of layers that several images have.
    pub shared_size: bool,
}

/// One image in a list.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// The image.
    pub image: Arc<Image>,
    /// Its names, of which a filter may have left some out.
    pub references: Vec<Reference>,
    /// Containers made from it.
    pub containers: usize,
    /// Bytes it shares with others, where that was asked for.
    pub shared_size: Option<u64>,
}

/// What can be wrong with a list; Docker's words, and its kinds.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Neither a time nor a duration.
    #[error("failed to parse value as time or duration: {0:?}")]
    Until(String),
    /// Not a shell pattern.
    #[error("syntax error in pattern")]
    Pattern,
    /// A configuration whose history does not fit its layers.
    #[error("too many non-empty layers in History section")]
    History,
}

impl Kinded for ListError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::System
    }
}

/// One line of a history, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLine {
    /// The image's id on its first line; nothing on others.
    pub id: Option<Digest>,
    /// When the step was done.
    pub created: Option<Timestamp>,
    /// By what command.
    pub created_by: String,
    /// Names, on the first line.
    pub tags: Vec<String>,
    /// Bytes the step added.
    pub size: u64,
    /// Comment.
    pub comment: String,
}

impl ImageService {
    /// Images the filters take, newest first.
    pub fn list(&self, filters: &Filters, options: ListOptions) -> Result<Vec<ImageSummary>, EngineError> {
        let query = Query::new(self, filters)?;
        let mut used: HashMap<Digest, usize> = HashMap::new();
        for container in self.core.containers.all() {
            *used.entry(container.snapshot().spec.image.clone()).or_default() += 1;
        }
        let index = self.store.index();
        let parents: HashSet<&Digest> = index.images.values().filter_map(|image| image.parent.as_ref()).collect();
        let mut holders: HashMap<&Digest, u64> = HashMap::new();
        if options.shared_size {
            let layers = index.images.values().flat_map(|image| &image.layers);
            layers.for_each(|layer| *holders.entry(&layer.chain_id).or_default() += 1);
        }
        let shared = |image: &Image| {
            let layers = image.layers.iter().filter(|layer| holders.get(&layer.chain_id).is_some_and(|n| *n > 1));
            layers.map(|layer| layer.size).sum()
        };
        let mut out = Vec::new();
        for image in index.images.values().filter(|image| query.matches(image)) {
            let references = query.references(image);
            let nameless = image.references.is_empty();
            if nameless && !options.all && parents.contains(&image.id) || query.by_name() && references.is_empty() {
                continue;
            }
            let containers = used.get(&image.id).copied().unwrap_or(0);
            let shared_size = options.shared_size.then(|| shared(image));
            out.push(ImageSummary { image: image.clone(), references, containers, shared_size });
        }
        let age = |item: &ImageSummary| item.image.config.created_at();
        out.sort_by(|a, b| age(b).cmp(&age(a)).then_with(|| a.image.id.cmp(&b.image.id)));
        Ok(out)
    }

    /// The steps `image` was made by, newest first; those made here have the id of the image they led to.
    pub fn history(&self, image: &Arc<Image>) -> Result<Vec<HistoryLine>, EngineError> {
        let mut layers = image.layers.iter();
        let mut lines = Vec::new();
        for step in &image.config.history {
            let layer = if step.empty_layer { None } else { layers.next() };
            if !step.empty_layer && layer.is_none() {
                return Err(EngineError::module(ListError::History));
            }
            lines.push(HistoryLine {
                id: None,
                created: step.created.as_deref().and_then(|text| Timestamp::parse_rfc3339(text).ok()),
                created_by: step.created_by.clone(),
                tags: Vec::new(),
                size: layer.map_or(0, |layer| layer.size),
                comment: step.comment.clone(),
            });
        }
        lines.reverse();
        let index = self.store.index();
        let mut next = Some(image.clone());
        for line in &mut lines {
            let Some(image) = next else { break };
            line.id = Some(image.id.clone());
            line.tags = image.references.iter().filter(|r| r.tag().is_some()).map(Reference::familiar).collect();
            next = image.parent.as_ref().and_then(|id| index.images.get(id).cloned());
        }
        Ok(lines)
    }
}

/// Filters with their images looked up.
#[derive(Debug)]
pub(super) struct Query<'a> {
    filters: &'a Filters,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    dangling: Option<bool>,
}

impl<'a> Query<'a> {
    pub(super) fn new(service: &ImageService, filters: &'a Filters) -> Result<Self, EngineError> {
        // An image that does not say when it was made marks nothing.
        let created = |key: &str| -> Result<Vec<Timestamp>, EngineError> {
            let images = filters.values(key).map(|name| service.inspect(name));
            images.filter_map(|image| image.map(|image| image.config.created_at()).transpose()).collect()
        };
        let until = crate::container::prune_until(filters, Timestamp::now());
        let until = until.map_err(|error| match error {
            InvalidFilter::Value { value, .. } => EngineError::module(ListError::Until(value)),
            other => other.into(),
        });
        if filters.values("reference").any(|pattern| !is_pattern(pattern)) {
            return Err(EngineError::module(ListError::Pattern));
        }
        Ok(Self {
            before: created("before")?.into_iter().min(),
            since: created("since")?.into_iter().max(),
            until: until?,
            dangling: filters.boolean("dangling")?,
            filters,
        })
    }

    /// Whether there is a filter on names.
    pub(super) fn by_name(&self) -> bool {
        self.filters.has("reference")
    }

    /// The names of `image` that pass the filter on names.
    pub(super) fn references(&self, image: &Image) -> Vec<Reference> {
        let passes = |reference: &&Reference| {
            let (familiar, name) = (reference.familiar(), reference.familiar_name());
            self.filters.any("reference", |pattern| glob(pattern, &familiar) || glob(pattern, &name))
        };
        image.references.iter().filter(passes).cloned().collect()
    }

    /// Whether `image` passes all but the filter on names.
    pub(super) fn matches(&self, image: &Image) -> bool {
        let labels = || image.config.container_config().labels;
        // An image that does not say when it was made passes no filter on time.
        let created = image.config.created_at();
        self.before.is_none_or(|at| created.is_some_and(|created| created < at))
            && self.since.is_none_or(|at| created.is_some_and(|created| created > at))
            && self.until.is_none_or(|at| created.is_some_and(|created| created < at))
            && self.dangling.is_none_or(|wanted| if wanted { !image.is_tagged() } else { !image.references.is_empty() })
            && (!self.filters.has("label") && !self.filters.has("label!") || self.filters.labels_match(&labels()))
    }
}

/// Whether a text is a pattern at all: every class is closed, nothing ends in a backslash.
fn is_pattern(text: &str) -> bool {
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.next().is_none() => return false,
            '[' => {
                let mut inside = 0;
                loop {
                    match rest.next() {
                        None => return false,
                        Some('^') if inside == 0 => {}
                        Some(']') if inside > 0 => break,
                        Some('\\') if rest.next().is_none() => return false,
                        Some(_) => inside += 1,
                    }
                }
            }
            _ => {}
        }
    }
    true
}

/// Shell patterns as Go's `path.Match` reads them: `*` and `?` stop at slashes, `[...]` is a class.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    fn class(pattern: &[char], c: char) -> Option<(bool, usize)> {
        let negated = pattern.get(1) == Some(&'^');
        let mut at = if negated { 2 } else { 1 };
        let (first, mut hit) = (at, false);
        while *pattern.get(at)? != ']' || at == first {
            let low = pattern[at];
            let high = if pattern.get(at + 1) == Some(&'-') && pattern.get(at + 2).is_some_and(|c| *c != ']') {
                at += 2;
                pattern[at]
            } else {
                low
            };
            hit |= (low..=high).contains(&c);
            at += 1;
        }
        Some((hit != negated, at + 1))
    }
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // `star`: where to resume when what follows the last star did not fit.
    let (mut p, mut t, mut star) = (0, 0, None::<(usize, usize)>);
    loop {
        let fits = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some('?'), Some(c)) if *c != '/' => Some(1),
            (Some('['), Some(c)) => class(&pattern[p..], *c).and_then(|(hit, len)| hit.then_some(len)),
            (Some('\\'), Some(c)) => (pattern.get(p + 1) == Some(c)).then_some(2),
            (Some(a), Some(b)) if a == b => Some(1),
            _ => None,
        };
        match (fits, star) {
            (Some(len), _) => {
                p += len;
                t += 1;
            }
            (None, Some((resume, from))) if text.get(from).is_some_and(|c| *c != '/') => {
                star = Some((resume, from + 1));
                p = resume;
                t = from + 1;
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (text, good) in
            [("a*", true), ("[a-c]x", true), ("[]", false), ("[a", false), ("a\\", false), ("[^]a]", true)]
        {
            assert_eq!(is_pattern(text), good, "{text}");
        }
    }

    #[test]
    fn globs() {
        let cases = [
            ("busy*", "busybox:latest", true),
            ("busy*:latest", "busybox:latest", true),
            ("*", "a/b", false),
            ("*/b", "a/b", true),
            ("a?c", "abc", true),
            ("[a-c]x", "bx", true),
            ("[^a]x", "ax", false),
            ("a*b*c", "axxbyyc", true),
            ("", "a", false),
        ];
        for (pattern, text, want) in cases {
            assert_eq!(glob(pattern, text), want, "{pattern} {text}");
        }
    }
}

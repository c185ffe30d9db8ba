//! `docker images`, `docker history`: from the published index, never from disk.

use std::collections::HashMap;
use std::sync::Arc;

use dockerd_image::Image;
use dockerd_types::filters::InvalidFilter;
use dockerd_types::{Digest, Filters, Timestamp};

use super::ImageService;
use crate::error::EngineError;

/// Filters `list` knows.
pub const FILTERS: [&str; 7] = ["before", "dangling", "label", "label!", "reference", "since", "until"];

/// One image in a list.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// The image.
    pub image: Arc<Image>,
    /// Containers made from it.
    pub containers: usize,
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
    pub fn list(&self, filters: &Filters) -> Result<Vec<ImageSummary>, EngineError> {
        let query = Query::new(self, filters)?;
        let mut used: HashMap<Digest, usize> = HashMap::new();
        for container in self.core.containers.all() {
            *used.entry(container.snapshot().spec.image.clone()).or_default() += 1;
        }
        let index = self.store.index();
        let mut out: Vec<ImageSummary> = index
            .images
            .values()
            .filter(|image| query.matches(image))
            .map(|image| ImageSummary { containers: used.get(&image.id).copied().unwrap_or(0), image: image.clone() })
            .collect();
        out.sort_by(|a, b| b.image.created.cmp(&a.image.created).then_with(|| a.image.id.cmp(&b.image.id)));
        Ok(out)
    }

    /// The steps an image was made by, newest first.
    pub fn history(&self, name: &str) -> Result<Vec<HistoryLine>, EngineError> {
        let image = self.store.resolve(name)?;
        let mut layers = image.layers.iter();
        let mut lines: Vec<HistoryLine> = image
            .config
            .history
            .iter()
            .map(|step| HistoryLine {
                id: None,
                created: step.created.as_deref().and_then(|text| Timestamp::parse_rfc3339(text).ok()),
                created_by: step.created_by.clone(),
                tags: Vec::new(),
                size: if step.empty_layer { 0 } else { layers.next().map_or(0, |layer| layer.size) },
                comment: step.comment.clone(),
            })
            .collect();
        lines.reverse();
        if let Some(first) = lines.first_mut() {
            first.id = Some(image.id.clone());
            first.tags = image.references.iter().filter(|r| r.tag().is_some()).map(|r| r.familiar()).collect();
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
        let created = |key: &str| -> Result<Option<Timestamp>, EngineError> {
            filters.values(key).next().map(|name| Ok(service.store.resolve(name)?.created)).transpose()
        };
        let dangling = filters.values("dangling").next().map(|text| match text {
            "true" | "1" | "t" | "True" | "TRUE" => Ok(true),
            "false" | "0" | "f" | "False" | "FALSE" => Ok(false),
            _ => Err(InvalidFilter::Value { key: "dangling".to_owned(), value: text.to_owned() }),
        });
        Ok(Self {
            before: created("before")?,
            since: created("since")?,
            until: crate::container::prune_until(filters, Timestamp::now())?,
            dangling: dangling.transpose()?,
            filters,
        })
    }

    pub(super) fn matches(&self, image: &Image) -> bool {
        let labels = || image.config.container_config().labels;
        self.before.is_none_or(|at| image.created < at)
            && self.since.is_none_or(|at| image.created > at)
            && self.until.is_none_or(|at| image.created < at)
            && self.dangling.is_none_or(|wanted| wanted == image.references.is_empty())
            && (!self.filters.has("label") && !self.filters.has("label!") || self.filters.labels_match(&labels()))
            && self.filters.any("reference", |pattern| {
                image.references.iter().any(|r| {
                    let (familiar, name) = (r.familiar(), r.familiar_name());
                    glob(pattern, &familiar) || glob(pattern, &name)
                })
            })
    }
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

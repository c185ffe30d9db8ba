//! Extended attributes of a tree. Many files have the same ones (labels, capabilities), so every attribute and every
//! combination of them is kept once and known by its number.

use std::collections::HashMap;
use std::sync::Arc;

use super::IndexError;

/// Longest name and longest value: what xattr(7) and the format's fields hold.
const MAX_NAME: usize = 255;
const MAX_VALUE: usize = u16::MAX as usize;
/// Bytes of all different attributes of one tree.
const MAX_BYTES: usize = 64 << 20;

/// Prefixes that the format has a number for (the kernel's fs/erofs/erofs_fs.h, "Name indexes"), longest first. What has
/// none of them cannot be kept.
const PREFIXES: [(u8, &[u8]); 5] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (6, b"security."),
    (4, b"trusted."),
    (1, b"user."),
];

/// One attribute.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attribute {
    /// Its whole name, with prefix.
    pub name: Box<[u8]>,
    /// Its value.
    pub value: Box<[u8]>,
}

impl Attribute {
    /// Checks the bounds; `None` for one in a namespace that the format does not know.
    pub(super) fn new(name: &[u8], value: &[u8]) -> Result<Option<Self>, IndexError> {
        let Some((prefix, suffix)) = split(name) else { return Ok(None) };
        // An access control list has a name of its own, everything else one behind its prefix.
        let complete = suffix.is_empty() == matches!(prefix, 2 | 3);
        if !complete || name.len() > MAX_NAME || value.len() > MAX_VALUE || name.contains(&0) {
            return Err(IndexError::Attribute(String::from_utf8_lossy(name).into_owned()));
        }
        Ok(Some(Self { name: name.into(), value: value.into() }))
    }

    /// The number of its prefix.
    pub(super) fn prefix(&self) -> u8 {
        self.bare().prefix
    }

    /// As it is on disk.
    pub(super) fn bare(&self) -> Bare<'_> {
        let (prefix, suffix) = split(&self.name).unwrap_or((0, &self.name));
        Bare { prefix, suffix, value: &self.value }
    }
}

/// An attribute as it is on disk, its prefix a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bare<'a> {
    pub(super) prefix: u8,
    pub(super) suffix: &'a [u8],
    pub(super) value: &'a [u8],
}

/// The mark of opaque directories (the kernel's overlayfs.rst, "whiteouts and opaque directories").
pub(super) const OPAQUE: Bare<'static> = Bare { prefix: 4, suffix: b"overlay.opaque", value: b"y" };

/// The mark of directories with whiteouts: "copied up, nobody knows from where". Without it overlayfs would list the whiteouts
/// of a directory that only one layer has (the kernel's fs/overlayfs/readdir.c, `ovl_dir_is_real`).
pub(super) const COPIED_UP: Bare<'static> = Bare { prefix: 4, suffix: b"overlay.origin", value: b"" };

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(index, prefix)| Some((*index, name.strip_prefix(*prefix)?)))
}

/// The prefix of a number.
pub(super) fn prefix(index: u8) -> Option<&'static [u8]> {
    PREFIXES.iter().find_map(|(known, prefix)| (*known == index).then_some(*prefix))
}

/// Which attributes an inode has; the default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SetId(u32);

impl SetId {
    pub(super) fn number(self) -> u32 {
        self.0
    }
}

/// All attributes of a tree and their combinations.
#[derive(Debug, Default, Clone)]
pub(super) struct Xattrs {
    attributes: Vec<Arc<Attribute>>,
    numbers: HashMap<Arc<Attribute>, u32>,
    /// Without the empty one; its number is that of its place plus one.
    sets: Vec<Arc<[u32]>>,
    set_numbers: HashMap<Arc<[u32]>, u32>,
    bytes: usize,
}

impl Xattrs {
    /// The number of an attribute.
    pub(super) fn attribute(&mut self, attribute: Attribute) -> Result<u32, IndexError> {
        if let Some(number) = self.numbers.get(&attribute) {
            return Ok(*number);
        }
        self.take(attribute.name.len() + attribute.value.len() + 64)?;
        let number = u32::try_from(self.attributes.len()).map_err(|_| IndexError::TooLarge("attributes"))?;
        let attribute = Arc::new(attribute);
        self.attributes.push(Arc::clone(&attribute));
        self.numbers.insert(attribute, number);
        Ok(number)
    }

    fn take(&mut self, bytes: usize) -> Result<(), IndexError> {
        self.bytes += bytes;
        if self.bytes > MAX_BYTES { Err(IndexError::TooLarge("attributes")) } else { Ok(()) }
    }

    /// The set of these attributes, which have different names.
    pub(super) fn set(&mut self, mut numbers: Vec<u32>) -> Result<SetId, IndexError> {
        if numbers.is_empty() {
            return Ok(SetId::default());
        }
        numbers.sort_unstable_by(|a, b| self.attributes[*a as usize].cmp(&self.attributes[*b as usize]));
        if let Some(set) = self.set_numbers.get(&numbers[..]) {
            return Ok(SetId(*set));
        }
        self.take(numbers.len() * 4 + 64)?;
        let numbers: Arc<[u32]> = numbers.into();
        self.sets.push(Arc::clone(&numbers));
        let set = u32::try_from(self.sets.len()).map_err(|_| IndexError::TooLarge("attributes"))?;
        self.set_numbers.insert(numbers, set);
        Ok(SetId(set))
    }

    /// `old` with `new` attributes in addition, or instead of those with the same name.
    pub(super) fn replace(&mut self, old: SetId, new: Vec<Attribute>) -> Result<SetId, IndexError> {
        let kept = self.numbers(old).iter().copied();
        let mut numbers: Vec<u32> = kept
            .filter(|number| new.iter().all(|attribute| attribute.name != self.attributes[*number as usize].name))
            .collect();
        for attribute in new {
            numbers.push(self.attribute(attribute)?);
        }
        self.set(numbers)
    }

    /// Numbers of a set's attributes, in the order of their names.
    pub(super) fn numbers(&self, set: SetId) -> &[u32] {
        match set.0.checked_sub(1) {
            Some(at) => &self.sets[at as usize],
            None => &[],
        }
    }

    /// The attribute of a number.
    pub(super) fn get(&self, number: u32) -> &Attribute {
        &self.attributes[number as usize]
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.attributes.len()
    }

    /// A set's attributes, in the order of their names.
    pub(super) fn of(&self, set: SetId) -> impl Iterator<Item = &Attribute> {
        self.numbers(set).iter().map(|number| self.get(*number))
    }
}

/// Whether `value` is an access control list as the kernel takes it (include/uapi/linux/posix_acl_xattr.h): a version, then
/// entries of tag, permissions and id, in the order that acl(5) asks for. An inode with another one could not be opened.
pub(super) fn is_acl(value: &[u8]) -> bool {
    let Some((version, entries)) = value.split_first_chunk::<4>() else { return false };
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return false;
    }
    let (mut last, mut named, mut mask) = (0u16, false, false);
    let (mut user, mut group, mut other) = (false, false, false);
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        // Only the tags of named users (2) and groups (8) may come more than once.
        if permissions > 7 || tag < last || (tag == last && !matches!(tag, 2 | 8)) {
            return false;
        }
        last = tag;
        match tag {
            1 => user = true,
            4 => group = true,
            0x10 => mask = true,
            0x20 => other = true,
            2 | 8 if id != u32::MAX => named = true,
            _ => return false,
        }
    }
    user && group && other && (mask || !named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let new = |name: &[u8]| Attribute::new(name, b"x");
        assert!(matches!(new(b"user.a"), Ok(Some(_))));
        assert!(matches!(new(b"strange.a"), Ok(None)));
        assert!(matches!(new(b"system.posix_acl_access"), Ok(Some(_))));
        for bad in [&b"user."[..], b"system.posix_acl_accessible", b"user.a\0", &[b"user.", &[b'x'; 251][..]].concat()]
        {
            assert!(new(bad).is_err(), "{bad:?}");
        }
        assert!(Attribute::new(b"user.a", &vec![0; 65536]).is_err());
    }

    #[test]
    fn equal_sets_are_one() {
        let mut all = Xattrs::default();
        let made = |name: &[u8], value: &[u8]| Attribute::new(name, value).expect("valid").expect("known");
        let (a, b) = (made(b"user.a", b"1"), made(b"user.b", b"2"));
        let one = all.replace(SetId::default(), vec![a.clone(), b.clone()]).expect("a set");
        let other = all.replace(SetId::default(), vec![b.clone(), a]).expect("a set");
        assert_eq!(one, other);
        let changed = all.replace(one, vec![made(b"user.a", b"3")]).expect("a set");
        let values: Vec<_> = all.of(changed).map(|attribute| attribute.value.to_vec()).collect();
        assert_eq!(values, [b"3".to_vec(), b"2".to_vec()]);
    }

    #[test]
    fn access_control_lists() {
        let acl = |entries: &[(u16, u16, u32)]| {
            let mut out = vec![2, 0, 0, 0];
            for (tag, permissions, id) in entries {
                out.extend(tag.to_le_bytes());
                out.extend(permissions.to_le_bytes());
                out.extend(id.to_le_bytes());
            }
            out
        };
        let none = u32::MAX;
        assert!(is_acl(&acl(&[(1, 7, none), (4, 5, none), (0x20, 5, none)])));
        assert!(is_acl(&acl(&[(1, 7, none), (2, 6, 5), (2, 6, 6), (4, 5, none), (0x10, 7, none), (0x20, 5, none)])));
        for bad in [
            acl(&[]),
            acl(&[(1, 7, none), (2, 6, 5), (4, 5, none), (0x20, 5, none)]),
            acl(&[(1, 8, none), (4, 5, none), (0x20, 5, none)]),
            acl(&[(4, 5, none), (1, 7, none), (0x20, 5, none)]),
            vec![2, 0, 0],
            vec![1, 0, 0, 0],
        ] {
            assert!(!is_acl(&bad), "{bad:?}");
        }
    }
}

//! One 512-byte header block: its numbers, names and checksum (POSIX "ustar Interchange Format", GNU "Basic Tar Format").

use super::{EntryKind, TarError, TarTime};

/// Size of everything in a tar.
pub(super) const BLOCK: usize = 512;

/// A block that passed its checksum.
#[derive(Debug, Clone)]
pub(super) struct Header(pub(super) Box<[u8; BLOCK]>);

/// Which dialect a block is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// Before POSIX: no magic.
    V7,
    /// POSIX, PAX.
    Ustar,
    /// Schilling's: a shorter prefix, times behind it.
    Star,
    /// GNU: no prefix.
    Gnu,
}

impl Header {
    /// Checks the sum, of unsigned or (as some old programs wrote) signed bytes.
    pub(super) fn check(block: Box<[u8; BLOCK]>) -> Result<Self, TarError> {
        let header = Self(block);
        let written = header.number(148, 8, "checksum")?;
        // The field itself counts as blanks. Sums of 512 bytes fit; without a condition inside they are vectorized.
        let unsigned = |bytes: &[u8]| bytes.iter().map(|byte| i32::from(*byte)).sum::<i32>();
        let signed = |bytes: &[u8]| bytes.iter().map(|byte| i32::from(byte.cast_signed())).sum::<i32>();
        let field = &header.0[148..156];
        let blanks = 8 * i32::from(b' ');
        let unsigned = i64::from(unsigned(&header.0[..]) - unsigned(field) + blanks);
        let signed = i64::from(signed(&header.0[..]) - signed(field) + blanks);
        if written == unsigned || written == signed { Ok(header) } else { Err(TarError::Header("wrong checksum")) }
    }

    fn dialect(&self) -> Dialect {
        match &self.0[257..265] {
            b"ustar\x0000" if &self.0[508..512] == b"tar\0" => Dialect::Star,
            [b'u', b's', b't', b'a', b'r', 0, ..] => Dialect::Ustar,
            b"ustar  \0" => Dialect::Gnu,
            _ => Dialect::V7,
        }
    }

    fn text(&self, at: usize, length: usize) -> &[u8] {
        let field = &self.0[at..at + length];
        &field[..field.iter().position(|byte| *byte == 0).unwrap_or(length)]
    }

    /// Octal digits between blanks and zeros, or (first bit set) a big-endian two's complement number.
    pub(super) fn number(&self, at: usize, length: usize, what: &'static str) -> Result<i64, TarError> {
        number(&self.0[at..at + length]).ok_or(TarError::Header(what))
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = match self.dialect() {
            Dialect::Ustar => self.text(345, 155),
            Dialect::Star => self.text(345, 131),
            Dialect::V7 | Dialect::Gnu => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }

    pub(super) fn flag(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn kind(&self) -> EntryKind {
        match self.flag() {
            // Contiguous files are files to everybody today.
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => EntryKind::Other(other),
        }
    }

    pub(super) fn mode(&self) -> Result<u32, TarError> {
        Ok((self.number(100, 8, "mode")? & 0o7777) as u32)
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        u64::try_from(self.number(124, 12, "size")?).map_err(|_| TarError::Header("negative size"))
    }

    pub(super) fn mtime(&self) -> Result<TarTime, TarError> {
        Ok(TarTime { seconds: self.number(136, 12, "mtime")?, nanos: 0 })
    }

    pub(super) fn uid(&self) -> Result<i64, TarError> {
        self.number(108, 8, "uid")
    }

    pub(super) fn gid(&self) -> Result<i64, TarError> {
        self.number(116, 8, "gid")
    }

    /// Major and minor number; old tars have neither.
    pub(super) fn device(&self) -> Result<(u32, u32), TarError> {
        if self.dialect() == Dialect::V7 {
            return Ok((0, 0));
        }
        let part = |at| u32::try_from(self.number(at, 8, "device")?).map_err(|_| TarError::Header("device number"));
        Ok((part(329)?, part(337)?))
    }
}

/// The number a field has; `None` for what is none or does not fit.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    if let [first, ..] = field
        && first & 0x80 != 0
    {
        // The first bit is the mark; the second the sign.
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
            value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
            if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
                return None;
            }
        }
        return i64::try_from(value).ok();
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"9\0"), None);
        // 10 GiB and -1 in base 256.
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0x80, 0, 0, 0]), Some(10 << 30));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }
}

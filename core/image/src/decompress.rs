//! Which compression a stream has, by its first bytes, and a reader of what is inside.

use std::io::{self, BufReader, Read};

use crate::error::ImageError;

/// Wraps `reader` so that plain bytes come out: gzip (several members too), zstd, or as it is.
pub(crate) fn plain<'a>(mut reader: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>, ImageError> {
    let mut head = [0; 6];
    let length = read_up_to(&mut reader, &mut head).map_err(ImageError::io("read archive"))?;
    let whole = io::Cursor::new(head[..length].to_vec()).chain(reader);
    match &head[..length] {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::read::MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::stream::read::Decoder::new(whole).map_err(ImageError::io("open zstd stream"))?;
            Ok(Box::new(BufReader::new(decoder)))
        }
        [b'B', b'Z', b'h', ..] => Err(ImageError::Archive("bzip2 compressed archives are not supported yet".into())),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            Err(ImageError::Archive("xz compressed archives are not supported yet".into()))
        }
        _ => Ok(Box::new(whole)),
    }
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

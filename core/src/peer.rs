//! What a client's socket tells of its other end, for the API server, which makes no system calls.

use std::os::fd::AsFd;
use std::time::Duration;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits until the client has read all that was written to it, `limit` at most. Over TCP only its machine can be asked, so
/// that this ends at once.
pub async fn has_read(socket: impl AsFd, limit: Duration) {
    let waited = async {
        while dockerd_sys::socket::unread_by_peer(&socket).is_ok_and(|bytes| bytes > 0) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    // A client that reads nothing gets what follows all the same.
    let _ = tokio::time::timeout(limit, waited).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[tokio::test]
    async fn ends_with_the_reading_or_the_limit() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        has_read(&ours, Duration::from_secs(60)).await;
        ours.write_all(b"head").unwrap();
        has_read(&ours, Duration::from_millis(3)).await;
        let reading = tokio::task::spawn_blocking(move || theirs.read_exact(&mut [0; 4]).map(|()| theirs));
        has_read(&ours, Duration::from_secs(60)).await;
        reading.await.unwrap().unwrap();
    }
}

//! The ports that machines know. They are in the boot parameters of agents
//! that run, who come back to them: they must be the same at the next start.

use crate::whole;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;

/// Bytes of a port file that are read: more are no number.
const LONGEST: usize = 16;

/// Why machines cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The port cannot be had.
    #[error("machines cannot be listened to at {at}: {source}")]
    Bind {
        /// Address and port.
        at: SocketAddr,
        /// What came back.
        source: io::Error,
    },
    /// The file that keeps the port cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// It holds no port.
    #[error(
        "{} holds no port number but {found:?}: machines that run now come back to the port that was there; \
         write that into it (pitstop's log and the machines' kernel command lines name it), or remove the file \
         to let pitstop choose another, which cuts those machines off", path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Its beginning.
        found: String,
    },
}

/// Listens at `chosen`, or else at the port that `file` keeps, or else at any,
/// which `file` keeps from then on.
pub async fn listen(
    dir: &Path,
    file: &str,
    address: IpAddr,
    chosen: Option<u16>,
) -> Result<(TcpListener, SocketAddr), PortError> {
    let path = dir.join(file);
    let kept = if chosen.is_some() { None } else { read(&path)? };
    let at = SocketAddr::new(address, chosen.or(kept).unwrap_or(0));
    let failed = |source| PortError::Bind { at, source };
    let listener = TcpListener::bind(at).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    if chosen.is_none() && kept != Some(bound.port()) {
        let line = format!("{}\n", bound.port());
        whole::write(&path, line.as_bytes(), 0o644).map_err(|source| PortError::File { path, source })?;
    }
    Ok((listener, bound))
}

fn read(path: &Path) -> Result<Option<u16>, PortError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PortError::File { path: path.to_owned(), source }),
    };
    let text = String::from_utf8_lossy(bytes.get(..LONGEST).unwrap_or(&bytes));
    match text.trim().parse() {
        Ok(port) if port != 0 => Ok(Some(port)),
        _ => Err(PortError::Damaged { path: path.to_owned(), found: text.into_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::os::unix::fs::MetadataExt as _;

    async fn at(dir: &Path, chosen: Option<u16>) -> Result<u16, PortError> {
        listen(dir, "machines.port", Ipv4Addr::LOCALHOST.into(), chosen).await.map(|(_, at)| at.port())
    }

    #[tokio::test]
    async fn agents_that_run_find_the_next_daemon_where_they_left_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("machines.port");
        let first = at(dir.path(), None).await.unwrap();
        let inode = fs::metadata(&file).unwrap().ino();
        assert_eq!(at(dir.path(), None).await.unwrap(), first);
        assert_eq!(fs::metadata(&file).unwrap().ino(), inode, "it was written although it did not change");
        let (other, _) = listen(dir.path(), "boot.port", Ipv4Addr::LOCALHOST.into(), None).await.unwrap();
        let chosen = other.local_addr().unwrap().port();
        drop(other);
        assert_eq!(at(dir.path(), Some(chosen)).await.unwrap(), chosen);
        assert_eq!(at(dir.path(), None).await.unwrap(), first, "a port that was chosen once is not kept");
    }

    #[tokio::test]
    async fn an_empty_port_file_is_no_leave_to_take_any_port() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("machines.port");
        for bad in
            ["", "\n", "0", "70000", "74 43", "7443\u{0}", "seven thousand four hundred and forty-three"]
        {
            fs::write(&file, bad).unwrap();
            let error = at(dir.path(), None).await.unwrap_err();
            assert!(matches!(error, PortError::Damaged { .. }), "{bad:?}: {error}");
            assert!(error.to_string().contains("remove the file"), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), bad, "it was written over");
        }
    }
}

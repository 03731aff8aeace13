//! Orders to the first process of a sandbox and its reports: one JSON text per record of a
//! SOCK_SEQPACKET socket. A command travels in a memory file, since it may be longer than a record, and
//! its three standard streams as descriptors.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use pitstop_wire::run::{Command, End};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest record; reasons are sentences, paths are at most 4096 bytes.
const MAX_RECORD: usize = 16 << 10;
const MAX_FDS: usize = 4;

/// What the sandbox is to look like.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) hostname: String,
    pub(super) disk: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToInit {
    Setup(Setup),
    /// With descriptors: the command as a memory file, standard input, output and error.
    Spawn {
        key: u64,
    },
    Signal {
        key: u64,
        signal: i32,
    },
    End,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromInit {
    Ready,
    Refused {
        reason: String,
    },
    Spawned {
        key: u64,
    },
    Ended {
        key: u64,
        end: End,
    },
    /// A line for the console.
    Said {
        line: String,
    },
}

pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> std::io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(std::io::Error::other("too many descriptors for one record"));
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next record; `None` when the other end is gone.
pub(super) fn receive<M: DeserializeOwned>(socket: impl AsFd) -> std::io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut text = vec![0; MAX_RECORD];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut parts = [IoSliceMut::new(&mut text)];
        match recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            // Reset: the other end died with something of ours unread. The kernel says so once, in front
            // of the last words that still wait here.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            other => break other?,
        }
    };
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Some((serde_json::from_slice(&text[..got.bytes])?, fds)))
}

pub(super) fn send_command(
    socket: impl AsFd,
    key: u64,
    command: &Command,
    stdio: &[OwnedFd; 3],
) -> std::io::Result<()> {
    let mut file = File::from(memfd_create("pitstop-command", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(command)?)?;
    file.rewind()?;
    let [stdin, stdout, stderr] = stdio;
    let fds = [file.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    send(socket, &ToInit::Spawn { key }, &fds)
}

/// Reads what [`send_command`] sent along.
pub(super) fn read_command(fds: Vec<OwnedFd>) -> std::io::Result<(Command, [OwnedFd; 3])> {
    let [command, stdin, stdout, stderr]: [OwnedFd; 4] =
        fds.try_into().map_err(|_| std::io::Error::other("a command without its four descriptors"))?;
    let mut text = Vec::new();
    File::from(command).read_to_end(&mut text)?;
    Ok((serde_json::from_slice(&text)?, [stdin, stdout, stderr]))
}

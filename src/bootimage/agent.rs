//! Finding the agent's program, and making sure that it runs without libraries.

use std::path::{Path, PathBuf};

use super::BootImageError;
use super::elf::{Elf, Machine};
use super::module::at_most;
use super::tree;

/// How the agent is built for a boot image.
pub const HOW_TO_BUILD: &str = "RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --profile agent \
--target x86_64-unknown-linux-gnu -p pitstop-agent";

const NAME: &str = "pitstop-agent";
/// Where cargo puts what [`HOW_TO_BUILD`] builds, seen from the directory of another build's programs.
const BUILT: &str = "../x86_64-unknown-linux-gnu/agent";
const MAX_PROGRAM: u64 = 64 << 20;

/// A program that needs nothing but the kernel.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) machine: Machine,
    pub(super) bytes: Vec<u8>,
}

/// The static agent: `named`, or else `pitstop-agent` beside `executable` (this program) or where cargo puts
/// it. One that needs libraries is passed over, since cargo leaves such a one beside its debug builds.
///
/// # Errors
/// There is none, or the named one is not static.
pub fn find_agent(named: Option<&Path>, executable: &Path) -> Result<PathBuf, BootImageError> {
    if let Some(named) = named {
        return read(named).map(|_| named.to_owned());
    }
    let beside = executable.parent().unwrap_or(Path::new("."));
    let mut tried = Vec::new();
    for candidate in [beside.join(NAME), beside.join(BUILT).join(NAME)] {
        match read(&candidate) {
            Ok(_) => return Ok(candidate),
            Err(BootImageError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                tried.push(format!("{} is not there", candidate.display()));
            }
            Err(BootImageError::NotStatic { why, .. }) => {
                tried.push(format!("{} {why}", candidate.display()))
            }
            Err(other) => tried.push(other.to_string()),
        }
    }
    Err(BootImageError::NoAgent { tried })
}

/// Reads the agent.
pub(super) fn read(file: &Path) -> Result<Program, BootImageError> {
    read_static(file)
}

/// Reads a program that needs no libraries.
pub(super) fn read_static(file: &Path) -> Result<Program, BootImageError> {
    // What a person names may be a link; only its target must be a file.
    let real = file.canonicalize().map_err(BootImageError::file("read", file))?;
    let bytes =
        at_most(tree::open_regular(&real)?, MAX_PROGRAM).map_err(BootImageError::file("read", file))?;
    let too_big = || BootImageError::TooBig { file: file.to_owned(), kind: "a program", limit: MAX_PROGRAM };
    let bytes = bytes.ok_or_else(too_big)?;
    let no = |why: &str| BootImageError::NotStatic { file: file.to_owned(), why: why.to_owned() };
    let elf = Elf::parse(&bytes).ok_or_else(|| no("is no program of 64 bits"))?;
    let machine = elf.machine().ok_or_else(|| no("is for a processor that no kernel here is for"))?;
    match elf.wants_interpreter() {
        Some(false) => Ok(Program { machine, bytes }),
        Some(true) => Err(no("is linked dynamically")),
        None => Err(no("is no program")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{module, program};
    use super::*;
    use std::fs;

    #[test]
    fn a_dynamic_agent_beside_us_is_passed_over_for_the_static_one() {
        let dir = tempfile::tempdir().unwrap();
        let (debug, built) = (dir.path().join("debug"), dir.path().join("x86_64-unknown-linux-gnu/agent"));
        fs::create_dir_all(&debug).unwrap();
        fs::create_dir_all(&built).unwrap();
        let executable = debug.join("pitstop");
        let error = find_agent(None, &executable).unwrap_err().to_string();
        assert!(error.contains("is not there") && error.contains("crt-static"), "{error}");
        fs::write(debug.join(NAME), program(true)).unwrap();
        let error = find_agent(None, &executable).unwrap_err().to_string();
        assert!(error.contains("is linked dynamically") && error.contains("crt-static"), "{error}");
        fs::write(built.join(NAME), program(false)).unwrap();
        let found = find_agent(None, &executable).unwrap();
        assert_eq!(found.canonicalize().unwrap(), built.join(NAME).canonicalize().unwrap());
        fs::write(debug.join(NAME), program(false)).unwrap();
        assert_eq!(find_agent(None, &executable).unwrap(), debug.join(NAME));
    }

    #[test]
    fn what_is_named_must_be_a_static_program() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent");
        for (bytes, words) in [
            (program(true), "is linked dynamically"),
            (module(""), "is no program"),
            (b"#!/bin/sh\n".to_vec(), "is no program of 64 bits"),
        ] {
            fs::write(&file, bytes).unwrap();
            let error = find_agent(Some(&file), Path::new("/x/pitstop")).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let missing = find_agent(Some(&dir.path().join("none")), Path::new("/x/pitstop"));
        assert!(matches!(missing, Err(BootImageError::File { .. })));
    }
}

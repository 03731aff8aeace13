//! Connections that say nothing are no reason not to serve who does.

use crate::harness::{Lab, ONE_BOARD};
use std::os::unix::net::UnixStream;

/// Starts the daemon under a limit of open files.
fn limited(limit: &str) -> Lab {
    let mut lab = Lab::new(ONE_BOARD);
    lab.serve_within(&["sh", "-c", &format!("ulimit {limit} && exec \"$@\""), "sh"]);
    lab
}

fn silent(lab: &Lab, count: usize) -> Vec<UnixStream> {
    (0..count).map(|_| UnixStream::connect(lab.path("sock")).unwrap()).collect()
}

#[test]
fn the_usual_limit_of_open_files_is_not_what_ends_it() {
    let lab = limited("-Sn 128");
    let crowd = silent(&lab, 300);
    assert_eq!(lab.machine("board")["state"], "free");
    // Each has been let in: none was needed to make room.
    lab.until("all are let in", || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", lab.pid())).unwrap().count();
        (open > crowd.len()).then_some(())
    });
}

#[test]
fn where_files_run_out_the_silent_ones_make_room() {
    let lab = limited("-n 64");
    let _crowd = silent(&lab, 200);
    for _ in 0..10 {
        assert_eq!(lab.machine("board")["state"], "free");
    }
    assert!(lab.log().contains("cannot be accepted"), "files did not run out: {}", lab.log());
}

//! `pitstop-agent`: the first process of a machine that pitstop booted, or the host agent in an image.

use std::process::ExitCode;
use std::sync::Arc;

use pitstop_agent::host::{self, SeedPlace};
use pitstop_agent::{Farewell, Platform, RealMachine, Say, pid1, sandbox};

const USAGE: &str = "pitstop-agent runs on machines of a pitstop lab.

  pitstop-agent host [DEVICE:OFFSET:LEN]  the host agent, with the seed named here, in /etc/pitstop/agent.toml,
                                          by pitstop.seed= on the kernel command line, or in a partition
                                          named pitstop-seed
  pitstop-agent --version

As the first process (init) of a machine it is the boot agent.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let say = Say::stderr();
    match words.as_slice() {
        ["sandbox"] => sandbox::main(),
        _ if std::process::id() == 1 => pid1::init(),
        [pid1::BOOT] => run_boot(&pid1::console()),
        ["host"] => run_host(None, &say),
        ["host", place] => run_host(Some(place), &say),
        ["--version"] => {
            println!("pitstop-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run_boot(say: &Say) -> ExitCode {
    match pid1::boot(say) {
        Ok(never) => match never {},
        Err(e) => {
            say.line(&e.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run_host(place: Option<&str>, say: &Say) -> ExitCode {
    let platform: Arc<dyn Platform> = Arc::new(RealMachine { home: None });
    let place = match place {
        Some(place) => SeedPlace::parse(place),
        None => SeedPlace::find(platform.as_ref()),
    };
    match place.and_then(|place| host::start(place, platform, say.clone())) {
        Err(e) => {
            say.line(&e.to_string());
            ExitCode::FAILURE
        }
        Ok(agent) => match agent.wait() {
            Farewell::Bye { .. } | Farewell::Stopped => ExitCode::SUCCESS,
            Farewell::Refused { .. } => ExitCode::FAILURE,
        },
    }
}

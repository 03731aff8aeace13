//! The one program: command line, daemon and dashboard.

fn main() -> std::process::ExitCode {
    // Parts of simulated machines are this program too; their namespaces must
    // be made before any thread is started.
    if let Some(code) = pitstop::sim::intercept() {
        return code;
    }
    pitstop::cli::main()
}

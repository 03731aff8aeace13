//! The one program: command line, daemon and dashboard.

fn main() -> std::process::ExitCode {
    // Parts of a simulated machine are this program too, started by it.
    if let Some(code) = pitstop::sim::intercept() {
        return code;
    }
    pitstop::cli::main()
}

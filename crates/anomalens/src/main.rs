//! The `anomalens` program. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}

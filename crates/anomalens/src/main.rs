//! The `anomalens` program. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod cli;

/// Tensors come and go by the megabyte; the system's allocator would map and unmap their pages each
/// time, which costs a seventh of the encoder's speed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}

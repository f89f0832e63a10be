use std::process::ExitCode;

fn main() -> ExitCode {
    memtrap::cli::main()
}

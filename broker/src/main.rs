//! The command `firn`.

use std::process::ExitCode;

fn main() -> ExitCode {
    firn_broker::cli::run(std::env::args_os())
}

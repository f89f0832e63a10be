//! placeholder
use super::Failure;
#[derive(Debug, clap::Args)]
pub struct Args {}
pub fn run(_args: Args, _out: &mut dyn std::io::Write) -> Result<(), Failure> {
    Ok(())
}

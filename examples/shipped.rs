//! Writes what a package ships beside the binary: man pages and shell completions, made from the command line's own definition.
//!
//! `cargo run --example shipped -- DIR`. An example, so that the binary carries none of it.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap_complete::Shell;

fn main() -> Result<(), Box<dyn Error>> {
    let dir: PathBuf = std::env::args_os().nth(1).ok_or("usage: cargo run --example shipped -- DIR")?.into();
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    for dir in [&man, &completions] {
        fs::create_dir_all(dir)?;
    }
    clap_mangen::generate_to(memtrap::cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut memtrap::cli::command(), "memtrap", &completions)?;
    }
    Ok(())
}

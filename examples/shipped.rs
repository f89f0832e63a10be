//! Writes what a package ships beside the binary: man pages and shell completions, made from the command line's own definition.
//!
//! `cargo run --example shipped -- DIR`. An example, so that the binary carries none of it.

use std::error::Error;
use std::fs;
use std::io;
use std::path::PathBuf;

use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

const ENVIRONMENT: &[(&str, &str)] = &[
    ("MEMTRAP_LOG", "The log level where --log-level is not given: error, warn, info, debug or trace."),
    ("NO_COLOR", "If not empty, log lines have no colours on a terminal."),
    ("GO", "The Go toolchain of memtrap demo where --go is not given."),
    ("TZ", "The time zone of the times that memtrap top prints; otherwise that of /etc/localtime."),
    ("PATH", "Where memtrap demo finds go. Programs of [[notify]] are given it, and nothing else of the environment."),
    ("CREDENTIALS_DIRECTORY", "Where systemd keeps what credential:NAME means in the configuration (LoadCredential= of the unit)."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM", "Set by systemd: readiness, watchdog, and log lines with their fields."),
    (
        "AWS_*, GOOGLE_*, AZURE_*",
        "Credentials and region of the store in [upload], in the way of the provider's own tools, where the configuration names none.",
    ),
];

const FILES: &[(&str, &str)] = &[
    ("/etc/memtrap/memtrap.toml", "The configuration, where -c names no other."),
    ("/usr/share/doc/memtrap/examples/memtrap.toml", "Every key with its default and why one would change it."),
    (
        "/var/lib/memtrap",
        "state_dir, where the configuration names no other: open incidents and cooldowns (state.json), baselines, and what waits to be uploaded \
         or told (egress). One memtrap at a time.",
    ),
    ("/var/lib/memtrap/bundles", "bundle_dir, where the configuration names no other: TARGET/TIME-TRIGGER-RSS, one directory a bundle."),
];

fn main() -> Result<(), Box<dyn Error>> {
    let dir: PathBuf = std::env::args_os().nth(1).ok_or("usage: cargo run --example shipped -- DIR")?.into();
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    for dir in [&man, &completions] {
        fs::create_dir_all(dir)?;
    }
    for (name, page) in pages()? {
        fs::write(man.join(name), page)?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut memtrap::cli::command(), "memtrap", &completions)?;
    }
    Ok(())
}

/// Every man page with its file's name: the program's, and each command's.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = memtrap::cli::command().disable_help_subcommand(true);
    program.build();
    let mut left = vec![(program, true)];
    let mut pages = Vec::new();
    while let Some((command, is_program)) = left.pop() {
        left.extend(command.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| (c.clone(), false)));
        let watches = is_program || command.get_name() == "run";
        let man = Man::new(command);
        let mut page = Vec::new();
        man.render(&mut page)?;
        let mut more = Roff::new();
        section(&mut more, "EXIT STATUS", &exit_status(watches));
        if watches {
            section(&mut more, "ENVIRONMENT", ENVIRONMENT);
            section(&mut more, "FILES", FILES);
        }
        if !is_program {
            more.control("SH", ["SEE ALSO"]).text([bold("memtrap"), roman("(1)")]);
        }
        more.to_writer(&mut page)?;
        pages.push((man.get_filename(), page));
    }
    Ok(pages)
}

fn exit_status(watches: bool) -> Vec<(&'static str, &'static str)> {
    let mut codes = vec![
        ("0", "Done."),
        ("1", "The job failed; standard error says why, and what to do."),
        ("2", "The command line or the configuration has mistakes."),
    ];
    if watches {
        codes.push(("78", "Of memtrap run: the configuration has mistakes. The unit does not start it again then."));
    }
    codes
}

fn section(page: &mut Roff, name: &str, entries: &[(&str, &str)]) {
    page.control("SH", [name]);
    for (term, meaning) in entries {
        page.control("TP", []).text([bold(*term)]).text([roman(*meaning)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(name: &str) -> String {
        let found = pages().unwrap().into_iter().find(|(file, _)| file == name);
        // an escaped hyphen is a hyphen
        String::from_utf8(found.unwrap_or_else(|| panic!("no {name}")).1).unwrap().replace("\\-", "-")
    }

    #[test]
    fn every_page_tells_how_its_command_ends() {
        let pages = pages().unwrap();
        assert!(pages.len() > 10, "{}", pages.len());
        for (name, page) in pages {
            let page = String::from_utf8(page).unwrap();
            assert!(page.contains(".SH \"EXIT STATUS\""), "{name}: {page}");
            assert_eq!(page.contains("\\fB78\\fR"), ["memtrap.1", "memtrap-run.1"].contains(&name.as_str()), "{name}: {page}");
        }
    }

    #[test]
    fn the_programs_page_names_every_variable_of_an_option_and_the_default_places() {
        fn variables(command: &clap::Command) -> Vec<String> {
            let own = command.get_arguments().filter_map(|a| Some(a.get_env()?.to_str()?.to_owned()));
            own.chain(command.get_subcommands().flat_map(variables)).collect()
        }
        let named = variables(&memtrap::cli::command());
        assert!(named.len() >= 2, "{named:?}");
        let daemon = memtrap::config::Daemon::default();
        let places =
            [daemon.state_dir.display().to_string(), daemon.bundle_dir.display().to_string(), memtrap::config::DEFAULT_PATH.into()];
        for page in [page("memtrap.1"), page("memtrap-run.1")] {
            for name in named.iter().chain(&places) {
                assert!(page.contains(&format!("\\fB{name}\\fR")), "{name} is not in\n{page}");
            }
        }
    }
}

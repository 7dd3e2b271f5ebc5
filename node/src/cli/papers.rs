//! `mesh papers`: writes the manual pages and the shells' completions, for packages. Both come from the words of the
//! command line themselves, so that they cannot say anything else.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::{Shell, generate_to};

use super::args::Cli;
use super::exit::{Exit, Failure};

/// Where each shell looks, below `/usr/share`.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions"),
    (Shell::Zsh, "zsh/vendor-completions"),
    (Shell::Fish, "fish/vendor_completions.d"),
];

/// Writes them below a directory such as `/usr/share`.
///
/// # Errors
/// A [`Failure`] that names what could not be written.
pub fn write(dir: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(
            Exit::Error,
            format!("cannot write below {}: {error}", dir.display()),
            "name a directory that this user may write to",
        )
    };
    let mut command = Cli::command();
    for (shell, place) in COMPLETIONS {
        let place = dir.join(place);
        std::fs::create_dir_all(&place).map_err(failed)?;
        generate_to(shell, &mut command, "mesh", &place).map_err(failed)?;
    }
    // bash-completion loads a command's file by the command's own name.
    let bash = dir.join(COMPLETIONS[0].1);
    std::fs::rename(bash.join("mesh.bash"), bash.join("mesh")).map_err(failed)?;
    let pages = dir.join("man/man1");
    std::fs::create_dir_all(&pages).map_err(failed)?;
    clap_mangen::generate_to(command, &pages).map_err(failed)?;
    Ok(format!("manual pages and completions are written below {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::write;

    #[test]
    fn every_command_has_a_page_and_every_shell_its_words() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        for page in ["mesh.1", "mesh-status.1", "mesh-failover.1", "mesh-audit-verify.1"] {
            let text = std::fs::read_to_string(dir.path().join("man/man1").join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
        for words in [
            "bash-completion/completions/mesh",
            "zsh/vendor-completions/_mesh",
            "fish/vendor_completions.d/mesh.fish",
        ] {
            assert!(
                std::fs::read_to_string(dir.path().join(words)).unwrap().contains("switchover"),
                "{words}"
            );
        }
    }
}

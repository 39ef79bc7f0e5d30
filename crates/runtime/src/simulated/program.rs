//! The few programs that a simulated machine can run.
//!
//! Enough for tests to speak of exit codes, output and signals in words that a real shell
//! understands too: `true`, `false`, `echo`, `sleep`, `cat`,
//! and `sh -c` with `;` between `echo … [>&2]`, `sleep N [&]`, `exit N`, `wait` and
//! `trap '[exit N]' TERM`. Everything else runs until it is stopped.

use std::time::Duration;

use crate::StreamKind;

/// Something a program does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Writes a line.
    Print(StreamKind, String),
    /// Waits.
    Sleep(Duration),
    /// Ends.
    Exit(i32),
    /// From now on SIGTERM makes it exit so, or is ignored.
    OnTerm(Option<i32>),
    /// Writes what it reads, until there is no more.
    Copy,
}

/// What `argv` does, if this machine knows the program.
pub(super) fn steps(argv: &[String]) -> Option<Vec<Step>> {
    let program = argv.first()?.rsplit('/').next()?;
    if program == "sh" && argv.get(1).is_some_and(|flag| flag == "-c") {
        return script(argv.get(2)?);
    }
    let mut steps = simple(program, &argv[1..])?;
    if !steps.contains(&Step::Copy) && !matches!(steps.last(), Some(Step::Exit(_))) {
        steps.push(Step::Exit(0));
    }
    Some(steps)
}

fn script(text: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for statement in split(text, |letter| letter == ';') {
        let mut words = split(&statement, char::is_whitespace);
        if words.is_empty() {
            continue;
        }
        let program = words.remove(0);
        steps.extend(match program.as_str() {
            "exit" => vec![Step::Exit(number(&words))],
            "wait" => Vec::new(),
            "trap" => {
                let action = split(words.first()?, char::is_whitespace);
                vec![Step::OnTerm((!action.is_empty()).then(|| number(&action[1..])))]
            }
            "true" | "false" => Vec::new(),
            _ => simple(&program, &words)?,
        });
    }
    if !steps.contains(&Step::Copy) {
        steps.push(Step::Exit(0));
    }
    Some(steps)
}

fn simple(program: &str, words: &[String]) -> Option<Vec<Step>> {
    Some(match program {
        "true" => vec![Step::Exit(0)],
        "false" => vec![Step::Exit(1)],
        "cat" if words.is_empty() => vec![Step::Copy],
        "sleep" => {
            let seconds = words.first()?.parse().ok()?;
            vec![Step::Sleep(Duration::try_from_secs_f64(seconds).ok()?)]
        }
        "echo" => {
            let to_stderr = words.last().is_some_and(|word| word == ">&2");
            let words = &words[..words.len() - usize::from(to_stderr)];
            let stream = if to_stderr { StreamKind::Stderr } else { StreamKind::Stdout };
            vec![Step::Print(stream, words.join(" "))]
        }
        _ => return None,
    })
}

fn number(words: &[String]) -> i32 {
    words.first().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// Splits where `separates` says, not inside quotes; quotes at this level stay when the text is to be
/// split again and go when it was split into words.
fn split(text: &str, separates: impl Fn(char) -> bool) -> Vec<String> {
    let into_words = separates(' ');
    let mut parts = vec![String::new()];
    let mut quote = None;
    let mut quoted = false;
    for letter in text.chars() {
        let is_quote = match quote {
            Some(open) => letter == open,
            None => matches!(letter, '\'' | '"'),
        };
        if is_quote {
            quote = if quote.is_some() { None } else { Some(letter) };
            quoted = true;
        }
        let Some(part) = parts.last_mut() else { continue };
        if quote.is_none() && !is_quote && separates(letter) {
            if !part.is_empty() || quoted {
                parts.push(String::new());
            }
            quoted = false;
        } else if !(is_quote && into_words) {
            part.push(letter);
        }
    }
    if parts.last().is_some_and(String::is_empty) && !quoted {
        parts.pop();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(argv: &[&str]) -> Option<Vec<Step>> {
        steps(&argv.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_script_is_a_row_of_steps() {
        use StreamKind::{Stderr, Stdout};
        assert_eq!(
            run(&["sh", "-c", "echo \"a; b\"; echo c >&2; exit 3"]),
            Some(vec![
                Step::Print(Stdout, "a; b".into()),
                Step::Print(Stderr, "c".into()),
                Step::Exit(3),
                Step::Exit(0)
            ])
        );
        assert_eq!(
            run(&["/bin/sh", "-c", "trap 'exit 7' TERM; sleep 2 & wait"]),
            Some(vec![Step::OnTerm(Some(7)), Step::Sleep(Duration::from_secs(2)), Step::Exit(0)])
        );
        assert_eq!(run(&["sh", "-c", "trap '' TERM"]), Some(vec![Step::OnTerm(None), Step::Exit(0)]));
    }

    #[test]
    fn strangers_are_not_known() {
        assert_eq!(run(&["nginx", "-g", "daemon off;"]), None);
        assert_eq!(run(&["sh", "-c", "nginx"]), None);
        assert_eq!(run(&[]), None);
        assert_eq!(run(&["sleep", "-1"]), None);
    }
}

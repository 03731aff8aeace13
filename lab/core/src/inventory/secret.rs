//! Keeps secrets out of what is quoted of an inventory: in terminals, logs and chats. The error may well be that the
//! secret stands in the file.

/// A line of which the secrets are masked, character by character. `before` is the text in front of it, where a secret of
/// several lines may have begun.
pub(super) fn masked(before: &str, line: &str) -> Vec<char> {
    if inside_secret(before) {
        return line.chars().map(|c| if c.is_whitespace() { c } else { '*' }).collect();
    }
    mask(line)
}

/// Whether a text ends within the value of a key that holds a secret.
fn inside_secret(text: &str) -> bool {
    let mut closes = None;
    for line in text.lines() {
        closes = match closes {
            None => opens_secret(line),
            Some(end) if line.contains(end) => None,
            open => open,
        };
    }
    closes.is_some()
}

/// What will close a secret's value that begins in this line and goes on behind it.
fn opens_secret(line: &str) -> Option<&'static str> {
    const OPEN: [(&str, &str); 4] = [("\"\"\"", "\"\"\""), ("'''", "'''"), ("[", "]"), ("{", "}")];
    line.match_indices('=').find_map(|(at, _)| {
        let key = line.get(..at)?.trim_end_matches([' ', '\t', '"', '\'']);
        let word = key.rsplit(|c: char| !is_key(c)).next()?;
        let value = line.get(at + 1..)?.trim_start();
        let mut open = OPEN.into_iter().filter(|_| names_a_secret(word));
        let fits = |open: &str, end: &str| value.strip_prefix(open).is_some_and(|rest| !rest.contains(end));
        open.find_map(|(open, end)| fits(open, end).then_some(end))
    })
}

fn is_key(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

const SECRET_WORDS: [&str; 7] = ["pass", "secret", "token", "community", "auth", "priv", "pin"];

/// Whether a key of this name holds a secret, whichever driver it is for.
pub(super) fn names_a_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    SECRET_WORDS
        .iter()
        .any(|word| key == *word || key.ends_with(&format!("_{word}")) || key.starts_with("pass"))
        || ["secret", "token", "community"].iter().any(|word| key.contains(word))
}

/// Replaces what is written after the keys that hold secrets.
fn mask(line: &str) -> Vec<char> {
    let mut chars: Vec<char> = line.chars().collect();
    let mut at = 0;
    // Inside the table of a secret only `file` and `env` are no secrets themselves.
    let mut inside = false;
    while at < chars.len() {
        inside &= !matches!(chars.get(at), Some('}' | ']'));
        let end = at + chars.iter().skip(at).take_while(|c| is_key(**c)).count();
        if end == at {
            at += 1;
            continue;
        }
        let word: String = chars.iter().skip(at).take(end - at).collect();
        let value = chars.iter().skip(end).take_while(|c| matches!(c, ' ' | '\t' | '"' | '\'' | '=')).count();
        let assigns = chars.iter().skip(end).take(value).any(|c| *c == '=');
        at = end;
        let opens = chars.get(end + value).is_none_or(|c| matches!(c, '{' | '['));
        if assigns && opens && names_a_secret(&word) {
            inside = true;
            at = end + value + 1;
        } else if assigns
            && !opens
            && (names_a_secret(&word) || (inside && !matches!(&*word, "file" | "env")))
        {
            at = mask_value(&mut chars, end + value);
        }
    }
    chars
}

/// Masks a value that begins here, and gives where it ends. What is in quotes ends with them, unless more than a comma
/// comes behind; whatever else stands there, quotes and all, may belong to the secret.
fn mask_value(chars: &mut [char], from: usize) -> usize {
    let mut at = from;
    let quote = from.checked_sub(1).and_then(|before| chars.get(before).copied());
    if let Some(quote) = quote.filter(|c| matches!(c, '"' | '\'')) {
        at = hide(chars, at, |c| c != quote) + 1;
        let behind = chars.iter().skip(at).find(|c| !c.is_whitespace());
        if behind.is_none_or(|c| matches!(c, ',' | '}' | ']' | '#')) {
            return at;
        }
    }
    hide(chars, at, |c| !matches!(c, ',' | '}'))
}

/// Masks characters while they fit; gives the place of the first that does not.
fn hide(chars: &mut [char], from: usize, fits: impl Fn(char) -> bool) -> usize {
    let mut at = from;
    while let Some(c) = chars.get_mut(at).filter(|c| fits(**c)) {
        *c = '*';
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_in_quoted_lines() {
        for line in [
            "power.ipmi = { password = \"hunter2\", user = \"x\" }",
            "password = hunter2",
            "snmp_community='hunter2' # note",
            "\"password\" = \"\"\"hunter2",
            "auth = \"hunter2",
            "password = { fiel = \"hunter2\" }",
            "password = { file.x = 'hunter2', y = 1 }",
            "password = these classes; password = \"hunter2\"what",
            "password = \"a,hunter2\", user = \"x\"",
            "password = \"a\\\"hunter2\"",
            "password = 'it''hunter2'",
        ] {
            let shown: String = mask(line).into_iter().collect();
            assert!(!shown.contains("hunter2"), "{shown}");
            assert_eq!(shown.chars().count(), line.chars().count(), "the underline would be off: {shown}");
        }
        let reference = "password = { file = \"/etc/pitstop/bmc\" }";
        assert_eq!(mask(reference).into_iter().collect::<String>(), reference);
    }

    #[test]
    fn a_secret_of_several_lines_is_masked_to_its_end() {
        for (before, line) in [
            ("password = \"\"\"\n", "hunter2"),
            ("power.bmc = { x = 1, \"password\" = '''\nabc\n", "hunter2"),
            ("password = [\n", "\"hunter2\","),
            ("password = {\n", "fiel = \"hunter2\""),
        ] {
            let shown: String = masked(before, line).into_iter().collect();
            assert!(
                !shown.contains("hunter2") && shown.chars().count() == line.chars().count(),
                "{before}{shown}"
            );
        }
        for before in [
            "password = \"\"\"a\nb\"\"\"\n",
            "password = { file = \"x\" }\n",
            "note = \"\"\"\n",
            "tags = [\n",
        ] {
            assert_eq!(masked(before, "soc = 1").into_iter().collect::<String>(), "soc = 1", "{before}");
        }
    }
}

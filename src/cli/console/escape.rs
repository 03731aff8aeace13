//! The keys that are for `pitstop console` itself: a tilde at a line's beginning, as with ssh.

/// What a tilde at a line's beginning asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Leave.
    Quit,
    /// A break on the line.
    Break,
    /// Say who watches.
    Who,
    /// Take the keyboard.
    Write,
    /// Give it back.
    Watch,
    /// Say which keys there are.
    Help,
}

/// Finds `~.` and its like in what is typed, as ssh does.
#[derive(Debug)]
pub struct Escape {
    /// The key that does not go to the machine; `None`: all do.
    key: Option<u8>,
    line_start: bool,
    tilde: bool,
}

impl Escape {
    /// One that begins with this key.
    pub fn new(key: Option<u8>) -> Self {
        Self { key, line_start: true, tilde: false }
    }

    /// Which keys there are.
    pub fn help(&self) -> String {
        let Some(key) = self.key else { return "every key goes to the machine".to_owned() };
        let k = char::from(key);
        format!(
            "{k}. leave  {k}b break  {k}w who watches  {k}t take the keyboard  {k}r give it back  {k}{k} a {k}"
        )
    }

    /// What goes to the machine, and what is for us; keys behind an act are
    /// dropped, they were typed before its effect was seen.
    pub fn take(&mut self, typed: &[u8]) -> (Vec<u8>, Option<Act>) {
        let mut out = Vec::with_capacity(typed.len());
        for key in typed.iter().copied() {
            if std::mem::take(&mut self.tilde) {
                let act = match key {
                    b'.' => Some(Act::Quit),
                    b'b' | b'B' => Some(Act::Break),
                    b'w' => Some(Act::Who),
                    b't' => Some(Act::Write),
                    b'r' => Some(Act::Watch),
                    b'?' => Some(Act::Help),
                    _ => None,
                };
                if act.is_some() {
                    self.line_start = true;
                    return (out, act);
                }
                out.extend(self.key);
                if Some(key) == self.key {
                    self.line_start = false;
                    continue;
                }
            } else if Some(key) == self.key && self.line_start {
                self.tilde = true;
                continue;
            }
            out.push(key);
            self.line_start = matches!(key, b'\r' | b'\n');
        }
        (out, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tilde_acts_only_at_a_lines_beginning_and_is_cut_anywhere() {
        let type_in = |pieces: &[&[u8]]| {
            let mut escape = Escape::new(Some(b'~'));
            let mut out = Vec::new();
            for piece in pieces {
                let (bytes, act) = escape.take(piece);
                out.extend(bytes);
                if act.is_some() {
                    return (out, act);
                }
            }
            (out, None)
        };
        assert_eq!(type_in(&[b"ls\r~."]), (b"ls\r".to_vec(), Some(Act::Quit)));
        assert_eq!(type_in(&[b"ls\r~", b"."]), (b"ls\r".to_vec(), Some(Act::Quit)));
        assert_eq!(type_in(&[b"cd ~.\r"]), (b"cd ~.\r".to_vec(), None));
        assert_eq!(type_in(&[b"~~."]), (b"~.".to_vec(), None));
        assert_eq!(type_in(&[b"~x"]), (b"~x".to_vec(), None));
        assert_eq!(type_in(&[b"~b"]), (vec![], Some(Act::Break)));
        assert_eq!(type_in(&[b"~w"]), (vec![], Some(Act::Who)));
    }

    #[test]
    fn another_key_may_be_the_escape_or_none_at_all() {
        let (mut caret, mut none) = (Escape::new(Some(b'^')), Escape::new(None));
        assert_eq!(caret.take(b"~.\r^^\r^."), (b"~.\r^\r".to_vec(), Some(Act::Quit)));
        assert_eq!(none.take(b"~.\r^."), (b"~.\r^.".to_vec(), None));
        assert!(caret.help().starts_with("^. leave"), "{}", caret.help());
    }

    proptest! {
        #[test]
        fn keys_mean_the_same_however_they_are_cut(keys in "[~.bwrt?a\r\n]{0,20}", len in 1_usize..6) {
            let type_in = |pieces: &mut dyn Iterator<Item = &[u8]>| {
                let (mut escape, mut out) = (Escape::new(Some(b'~')), Vec::new());
                for piece in pieces {
                    let (bytes, act) = escape.take(piece);
                    out.extend(bytes);
                    if act.is_some() {
                        return (out, act);
                    }
                }
                (out, None)
            };
            let whole = type_in(&mut std::iter::once(keys.as_bytes()));
            prop_assert_eq!(whole, type_in(&mut keys.as_bytes().chunks(len)));
        }
    }
}

//! The keys that are for `pitstop console` itself: a tilde at a line's beginning, as with ssh.

/// What a tilde at a line's beginning asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Leave.
    Quit,
    /// A break on the line.
    Break,
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
    line_start: bool,
    tilde: bool,
}

impl Default for Escape {
    fn default() -> Self {
        Self { line_start: true, tilde: false }
    }
}

impl Escape {
    /// What goes to the machine, and what is for us; keys behind an act are
    /// dropped, they were typed before its effect was seen.
    pub fn take(&mut self, typed: &[u8]) -> (Vec<u8>, Option<Act>) {
        let mut out = Vec::with_capacity(typed.len());
        for key in typed.iter().copied() {
            if std::mem::take(&mut self.tilde) {
                let act = match key {
                    b'.' => Some(Act::Quit),
                    b'b' | b'B' => Some(Act::Break),
                    b'w' => Some(Act::Write),
                    b'r' => Some(Act::Watch),
                    b'?' => Some(Act::Help),
                    _ => None,
                };
                if act.is_some() {
                    self.line_start = true;
                    return (out, act);
                }
                out.push(b'~');
                if key == b'~' {
                    self.line_start = false;
                    continue;
                }
            } else if key == b'~' && self.line_start {
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
            let mut escape = Escape::default();
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
    }

    proptest! {
        #[test]
        fn keys_mean_the_same_however_they_are_cut(keys in "[~.bwr?a\r\n]{0,20}", len in 1_usize..6) {
            let type_in = |pieces: &mut dyn Iterator<Item = &[u8]>| {
                let (mut escape, mut out) = (Escape::default(), Vec::new());
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

//! Reads selectors.

use super::{Item, Number, Selector, SelectorError, Term};

/// Characters that end a value unless it is quoted.
const SYNTAX: &str = ",=!<>\"";

pub(super) fn needs_quotes(value: &str) -> bool {
    value.is_empty()
        || value.contains(|c: char| c.is_whitespace() || SYNTAX.contains(c))
        || value.contains("..")
}

/// Reads a selector of at most `most` bytes.
pub(super) fn selector(input: &str, most: usize) -> Result<Selector, SelectorError> {
    if input.len() > most {
        let what = format!("the FILTER has {} bytes; at most {most} are allowed", input.len());
        // The input may be megabytes of anything: it is not repeated.
        return Err(SelectorError::new("", 0, 0, what));
    }
    let mut reader = Reader { input, at: 0 };
    let mut terms = Vec::new();
    reader.skip_blanks();
    while reader.peek().is_some() {
        terms.push(reader.term()?);
        let after = reader.at;
        reader.skip_blanks();
        if reader.peek().is_some() && reader.at == after {
            return Err(reader.unexpected("a blank before the next term"));
        }
    }
    Ok(Selector { terms })
}

struct Reader<'i> {
    input: &'i str,
    at: usize,
}

/// A value and whether it stood in quotes: `".."` is a text, `..` is not.
struct Piece {
    text: String,
    at: usize,
    /// Bytes as written, with the quotes.
    len: usize,
    quoted: bool,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.input.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn skip_blanks(&mut self) {
        self.at = self.input.len() - self.rest().trim_start().len();
    }

    fn error(&self, at: usize, what: impl Into<String>) -> SelectorError {
        SelectorError::new(self.input, at, self.at.saturating_sub(at), what)
    }

    fn refuse(&self, piece: &Piece, what: &str) -> SelectorError {
        SelectorError::new(self.input, piece.at, piece.len, format!("`{}` {what}", piece.text))
    }

    fn unexpected(&self, expected: &str) -> SelectorError {
        let (len, what) = self.peek().map_or((0, "the FILTER ends too early".to_owned()), |c| {
            (c.len_utf8(), format!("{c:?} cannot stand here"))
        });
        SelectorError::new(self.input, self.at, len, what).expected(expected)
    }

    fn term(&mut self) -> Result<Term, SelectorError> {
        let first = self.piece("a key or a word")?;
        let sign = ["!=", ">=", "<=", "==", "=", ">", "<"].into_iter().find(|sign| self.eat(sign));
        let Some(sign) = sign else {
            if self.peek().is_some_and(|c| !c.is_whitespace()) {
                return Err(self.unexpected("`=`, `!=`, or a blank"));
            }
            return Ok(Term::Word(first.text));
        };
        if sign == "==" {
            return Err(self.error(self.at - 2, "`==` is not a comparison here").expected("`=`"));
        }
        let key = self.key(first)?;
        match sign {
            "=" => Ok(Term::In { key, items: self.items()? }),
            "!=" => Ok(Term::NotIn { key, items: self.items()? }),
            ">=" => Ok(Term::In { key, items: vec![Item::Range { low: Some(self.bound()?), high: None }] }),
            "<=" => Ok(Term::In { key, items: vec![Item::Range { low: None, high: Some(self.bound()?) }] }),
            ">" => Ok(Term::Above { key, bound: self.bound()? }),
            _ => Ok(Term::Below { key, bound: self.bound()? }),
        }
    }

    fn key(&self, piece: Piece) -> Result<String, SelectorError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if piece.quoted || !piece.text.chars().all(fits) {
            return Err(self.refuse(&piece, "cannot be a key").expected("letters, digits, '.', '_', '-'"));
        }
        Ok(piece.text)
    }

    fn items(&mut self) -> Result<Vec<Item>, SelectorError> {
        let mut items = Vec::new();
        loop {
            let piece = self.piece("a value")?;
            items.push(self.item(piece)?);
            if !self.eat(",") {
                return Ok(items);
            }
        }
    }

    fn item(&self, piece: Piece) -> Result<Item, SelectorError> {
        let Some((low, high)) = piece.text.split_once("..").filter(|_| !piece.quoted) else {
            return Ok(Item::Value(piece.text));
        };
        let range = || self.refuse(&piece, "is not a range");
        let end = |text: &str| match text {
            "" => Ok(None),
            text => text.parse::<Number>().map(Some),
        };
        match (end(low), end(high)) {
            (Ok(None), Ok(None)) => Err(range().expected("a number on at least one side, `8..`")),
            (Ok(Some(low)), Ok(Some(high))) if low > high => {
                Err(range().expected(format!("the smaller number first, `{high}..{low}`")))
            }
            (Ok(low), Ok(high)) => Ok(Item::Range { low, high }),
            _ => Err(range().expected(format!(
                "numbers without unit, `8..` or `4..8`; a text stands in quotes, `\"{}\"`",
                piece.text
            ))),
        }
    }

    fn bound(&mut self) -> Result<Number, SelectorError> {
        let piece = self.piece("a number")?;
        piece
            .text
            .parse()
            .map_err(|()| self.refuse(&piece, "is not a number").expected("a number without unit, `8`"))
    }

    fn piece(&mut self, expected: &str) -> Result<Piece, SelectorError> {
        let at = self.at;
        if self.eat("\"") {
            let Some(len) = self.rest().find('"') else {
                self.at = self.input.len();
                return Err(self.error(at, "the quote is not closed").expected("a second `\"`"));
            };
            let text = self.rest().get(..len).unwrap_or_default().to_owned();
            self.at += len + 1;
            if text.is_empty() || text.contains(char::is_control) {
                return Err(self.error(at, "an empty text, or one with control characters, matches nothing"));
            }
            return Ok(Piece { text, at, len: self.at - at, quoted: true });
        }
        let rest = self.rest();
        let len = rest.find(|c: char| c.is_whitespace() || SYNTAX.contains(c)).unwrap_or(rest.len());
        if len == 0 {
            return Err(self.unexpected(expected));
        }
        let text = rest.get(..len).unwrap_or_default().to_owned();
        self.at += len;
        if text.contains(char::is_control) {
            return Err(self.error(at, "a control character cannot stand in a FILTER"));
        }
        Ok(Piece { text, at, len, quoted: false })
    }
}

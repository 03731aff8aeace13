//! Placeholders in texts: `{name}` and `{n}` are filled in when the inventory is read, others when a command runs.
//! `{{` and `}}` stand for the braces themselves.

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'t> {
    /// Text; `{{` is still double.
    Text(&'t str),
    /// What stands between braces.
    Placeholder(&'t str),
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A placeholder nobody knows here.
    #[error("unknown placeholder `{{{0}}}`")]
    Unknown(String),
    /// A brace without its partner.
    #[error("a `{0}` without its partner")]
    Brace(char),
}

/// Fills in what `value` knows. A placeholder it gives `None` for is an error.
///
/// # Errors
/// [`TemplateError`] names the placeholder or the brace.
pub fn render(text: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) => out.push_str(&text.replace("{{", "{").replace("}}", "}")),
            Piece::Placeholder(name) => {
                out.push_str(&value(name).ok_or_else(|| TemplateError::Unknown(name.to_owned()))?);
            }
        }
    }
    Ok(out)
}

/// Fills in what `value` knows and leaves the placeholders in `later` (and double braces) for [`render`].
pub(super) fn prepare(
    text: &str,
    later: &[&str],
    value: impl Fn(&str) -> Option<String>,
) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) => out.push_str(text),
            // `{image.bootloader}`: a part of something that is known later.
            Piece::Placeholder(name) if later.contains(&name.split('.').next().unwrap_or_default()) => {
                out.push('{');
                out.push_str(name);
                out.push('}');
            }
            Piece::Placeholder(name) => {
                out.push_str(&value(name).ok_or_else(|| TemplateError::Unknown(name.to_owned()))?);
            }
        }
    }
    Ok(out)
}

/// The placeholders of a text; none where its braces do not fit.
pub fn placeholders(text: &str) -> Vec<&str> {
    let found = pieces(text).unwrap_or_default().into_iter();
    found.filter_map(|piece| if let Piece::Placeholder(name) = piece { Some(name) } else { None }).collect()
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let brace = rest.find(['{', '}']).unwrap_or(rest.len());
        let (plain, tail) = rest.split_at(brace);
        pieces.push(Piece::Text(plain));
        rest = if let Some(after) = tail.strip_prefix("{{").or_else(|| tail.strip_prefix("}}")) {
            pieces.push(Piece::Text(&tail[..2]));
            after
        } else if let Some(inside) = tail.strip_prefix('{') {
            let (name, after) = inside.split_once('}').ok_or(TemplateError::Brace('{'))?;
            pieces.push(Piece::Placeholder(name));
            after
        } else if tail.is_empty() {
            tail
        } else {
            return Err(TemplateError::Brace('}'));
        };
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Option<String> {
        (name == "name").then(|| "srv01".to_owned())
    }

    #[test]
    fn placeholders_and_braces() {
        assert_eq!(render("{name}-bmc {{\"on\":true}}", known).unwrap(), "srv01-bmc {\"on\":true}");
        assert_eq!(render("{nmae}", known), Err(TemplateError::Unknown("nmae".to_owned())));
        assert_eq!(render("a {name", known), Err(TemplateError::Brace('{')));
        assert_eq!(render("a } b", known), Err(TemplateError::Brace('}')));
        assert_eq!(render("{}", known), Err(TemplateError::Unknown(String::new())));
    }

    #[test]
    fn what_is_known_later_stays_until_then() {
        let text = prepare("{name} {image} {image.boot} {{x}}", &["image"], known).unwrap();
        assert_eq!(text, "srv01 {image} {image.boot} {{x}}");
        assert!(prepare("{state}", &["image"], known).is_err());
        let done = render(&text, |name| Some(name.to_uppercase())).unwrap();
        assert_eq!(done, "srv01 IMAGE IMAGE.BOOT {x}");
    }
}

//! What a kernel module says about itself in its section `.modinfo`: `KEY=VALUE` texts, each ended by a zero byte.

/// More than this many names of others is no module of any kernel.
const MAX_NEEDS: usize = 256;

/// The name of a module as the kernel has it: `-` and `_` mean the same. `None` for what is no name.
pub(super) fn name_of(text: &str) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (!text.is_empty() && text.len() <= 64 && text.bytes().all(good)).then(|| text.replace('-', "_"))
}

/// What a `.modinfo` section says about other modules: those it depends on, and those it would like.
pub(super) fn needs(info: &[u8]) -> Result<(Vec<String>, Vec<String>), String> {
    let (mut depends, mut hopes) = (Vec::new(), Vec::new());
    for entry in info.split(|&b| b == 0) {
        let Some(at) = entry.iter().position(|&b| b == b'=') else { continue };
        let value =
            || std::str::from_utf8(&entry[at + 1..]).map_err(|_| "its dependencies are no text".to_owned());
        match &entry[..at] {
            b"depends" => depends.extend(names(value()?.split(','))?),
            b"softdep" => {
                let words = value()?.split_ascii_whitespace();
                let before =
                    words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
                hopes.extend(names(before)?);
            }
            _ => {}
        }
    }
    if depends.len() + hopes.len() > MAX_NEEDS {
        return Err(format!("it names more than {MAX_NEEDS} other modules"));
    }
    Ok((depends, hopes))
}

fn names<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<String>, String> {
    let words = words.filter(|word| !word.is_empty());
    words
        .map(|word| name_of(word).ok_or_else(|| format!("it depends on {word:?}, which is no module")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn modinfo_names_what_must_and_what_should_come_before() {
        let info = b"license=GPL\0alias=pci:v*\0depends=virtio-ring,virtio\0softdep=pre: realtek mdio-x post: late\0noise\0";
        let (depends, hopes) = needs(info).unwrap();
        assert_eq!(depends, ["virtio_ring", "virtio"]);
        assert_eq!(hopes, ["realtek", "mdio_x"]);
        assert_eq!(needs(b"depends=\0").unwrap(), (vec![], vec![]));
        assert_eq!(needs(b"softdep=post: late\0").unwrap(), (vec![], vec![]));
    }

    #[test]
    fn names_that_are_paths_or_lines_are_refused() {
        for bad in ["../../etc/passwd", "a b", "a\nb", "a#b", "ä"] {
            let info = format!("depends={bad}\0");
            assert!(needs(info.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(needs(b"depends=\xff\0").is_err());
        let many = format!("depends={}\0", vec!["a"; MAX_NEEDS + 1].join(","));
        assert!(needs(many.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn names_of_other_modules_are_names_in_the_kernels_spelling(
            info in "(depends=|softdep=|pre: |post: |[a-z_,\0 /.-]){0,20}",
        ) {
            if let Ok((depends, hopes)) = needs(info.as_bytes()) {
                for name in depends.iter().chain(&hopes) {
                    prop_assert_eq!(name_of(name), Some(name.clone()));
                }
            }
        }
    }
}

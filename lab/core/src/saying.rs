//! What machines say on their consoles that means something, and how it is
//! recognised. The rules are data, with the samples they are held against:
//! `saying/rules.toml`.

use regex::bytes::RegexSet;
use serde::{Deserialize, Serialize};

/// What printk may put before a message: its level, the time, the task or
/// processor that speaks.
const PRINTK: &str = r"(<[0-7]>)?(\[ *[0-9]+\.[0-9]+\] ?(\[ *[TC][0-9]+\] ?)?)?";

/// Something a machine said that means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saying {
    /// The kernel gave up.
    KernelPanic,
    /// It found no root filesystem.
    NoRoot,
    /// The kernel hit a bug and goes on.
    Oops,
    /// A processor hangs in the kernel.
    SoftLockup,
    /// The boot loader waits for commands.
    BootLoader,
    /// A system is up and asks who is there.
    Login,
}

impl Saying {
    /// Whether nothing comes of this boot any more. What a kernel may survive
    /// is no such thing: a test may even want it.
    pub fn ends_the_boot(self) -> bool {
        matches!(self, Self::KernelPanic | Self::NoRoot)
    }

    /// Whether somebody should look at it.
    pub fn is_trouble(self) -> bool {
        !matches!(self, Self::BootLoader | Self::Login)
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::KernelPanic => "kernel panic",
            Self::NoRoot => "no root filesystem",
            Self::Oops => "kernel oops",
            Self::SoftLockup => "soft lockup",
            Self::BootLoader => "boot loader's prompt",
            Self::Login => "login prompt",
        }
    }
}

/// The rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// They are no TOML, or not such a one.
    #[error("the rules for consoles: {0}")]
    Data(#[from] toml::de::Error),
    /// A pattern is none.
    #[error("the rules for consoles: {0}")]
    Pattern(#[from] regex::Error),
}

#[derive(Deserialize)]
struct Data {
    rule: Vec<Rule>,
}

/// A rule as it is written down.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What a line means that matches.
    pub saying: Saying,
    /// What it must look like; `{printk}` is what the kernel puts first.
    pub pattern: String,
    /// Lines that are meant.
    pub yes: Vec<String>,
    /// Lines that only look so.
    pub no: Vec<String>,
}

impl Data {
    fn builtin() -> Result<Self, RulesError> {
        Ok(toml::from_str(include_str!("saying/rules.toml"))?)
    }
}

/// All rules, ready to be used.
#[derive(Debug, Clone)]
pub struct Rules {
    set: RegexSet,
    sayings: Vec<Saying>,
}

impl Rules {
    /// Those that come with pitstop.
    ///
    /// # Errors
    /// They are wrong, which a test rules out.
    pub fn builtin() -> Result<Self, RulesError> {
        let data = Data::builtin()?;
        let patterns = data.rule.iter().map(|rule| rule.pattern.replace("{printk}", PRINTK));
        // Lines are bytes: noise in front of them is no reason to be deaf.
        let set = regex::bytes::RegexSetBuilder::new(patterns).unicode(false).build()?;
        Ok(Self { set, sayings: data.rule.iter().map(|rule| rule.saying).collect() })
    }

    /// What this line (without its end) means.
    pub fn heard(&self, line: &[u8]) -> impl Iterator<Item = Saying> + '_ {
        // Most lines mean nothing: to know that costs no allocation.
        let any = self.set.is_match(line).then(|| self.set.matches(line));
        any.into_iter().flatten().filter_map(|at| self.sayings.get(at).copied())
    }

    /// The same as they are written down, with their samples.
    ///
    /// # Errors
    /// As [`Rules::builtin`].
    pub fn written() -> Result<Vec<Rule>, RulesError> {
        Ok(Data::builtin()?.rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_hears_what_it_is_for_and_nothing_that_only_mentions_it() {
        let rules = Rules::builtin().unwrap();
        let written = Rules::written().unwrap();
        assert_eq!(written.len(), 6);
        for Rule { saying, yes, no, .. } in &written {
            assert!(yes.len() >= 3 && no.len() >= 3, "{saying:?} has too few samples");
            for line in yes {
                let heard: Vec<_> = rules.heard(line.as_bytes()).collect();
                assert_eq!(heard, [*saying], "{line}");
            }
            for line in no {
                // What is no sample of one rule is none of another either.
                let heard: Vec<_> = rules.heard(line.as_bytes()).collect();
                assert_eq!(heard, [], "{line}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_a_panic() {
        let rules = Rules::builtin().unwrap();
        assert_eq!(rules.heard(b"\xff\xfe\x00").count(), 0);
        assert_eq!(rules.heard(b"Kernel panic - not syncing: \xff").count(), 1);
    }
}

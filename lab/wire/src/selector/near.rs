//! Why so few machines match: for `why` and for the answer to a reservation that nothing can serve.

use super::{Facts, Selector};

/// Machines listed per relaxed term; the count goes on.
const LISTED: usize = 16;

/// How the machines of a lab miss a selector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NearMisses {
    /// Machines looked at.
    pub total: usize,
    /// Machines that match.
    pub matching: usize,
    /// Per key, how many machines fail there first, most first: `11 soc, 7 ram`.
    pub misses: Vec<(String, usize)>,
    /// Terms that alone stand between the selector and some machine, in the order written.
    pub relaxed: Vec<Relaxed>,
}

/// What the selector would match without one of its terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaxed {
    /// Place of the term in [`Selector::terms`].
    pub index: usize,
    /// The term as written: `ram=8..`.
    pub term: String,
    /// How many machines fail nothing else.
    pub count: usize,
    /// Their names, at most 16.
    pub machines: Vec<String>,
}

impl Selector {
    /// Counts misses over all machines.
    pub fn near_misses<'f>(&self, machines: impl IntoIterator<Item = &'f dyn Facts>) -> NearMisses {
        let mut result = NearMisses::default();
        let mut first = vec![0_usize; self.terms.len()];
        let mut relaxed: Vec<Relaxed> = self
            .terms
            .iter()
            .enumerate()
            .map(|(index, term)| Relaxed { index, term: term.to_string(), count: 0, machines: Vec::new() })
            .collect();
        for facts in machines {
            result.total += 1;
            let mut failing =
                self.terms.iter().enumerate().filter(|(_, term)| !term.holds(facts)).map(|(index, _)| index);
            let Some(index) = failing.next() else {
                result.matching += 1;
                continue;
            };
            if let Some(count) = first.get_mut(index) {
                *count += 1;
            }
            if let (None, Some(alone)) = (failing.next(), relaxed.get_mut(index)) {
                alone.count += 1;
                if alone.machines.len() < LISTED {
                    alone.machines.push(facts.name().to_owned());
                }
            }
        }
        result.misses = per_key(self, &first);
        result.relaxed = relaxed.into_iter().filter(|relaxed| relaxed.count > 0).collect();
        result
    }
}

fn per_key(selector: &Selector, first: &[usize]) -> Vec<(String, usize)> {
    let mut misses: Vec<(String, usize)> = Vec::new();
    for (term, count) in selector.terms.iter().zip(first).filter(|(_, count)| **count > 0) {
        match misses.iter_mut().find(|(key, _)| key == term.key()) {
            Some((_, sum)) => *sum += count,
            None => misses.push((term.key().to_owned(), *count)),
        }
    }
    misses.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    misses
}

//! tmp
use pitstop_core::fence::{Fence, Fences};
use pitstop_model::{check::check, configuration::usual};
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let most = std::env::var("MOST").ok().map(|m| m.parse().unwrap());
    let fence = Fence::ALL.into_iter().find(|f| args.iter().any(|a| a == f.name()));
    let fences = fence.map_or_else(Fences::default, Fences::without);
    for c in usual() {
        if !args.is_empty() && !args.iter().any(|a| a == c.name) { continue; }
        let found = check(&c, fences, most);
        println!("{}: {}\n  {} states, {} transitions, depth {}, {:.1} s, exhaustive {}, unreached {:?}", c.name, c.bounds(), found.unique_states, found.transitions, found.max_depth, found.took.as_secs_f64(), found.exhaustive, found.unreached);
        if let Some(v) = found.violation { println!("VIOLATION {}: {}", v.property, v.text); for l in v.path { println!("  {l}"); } }
    }
}

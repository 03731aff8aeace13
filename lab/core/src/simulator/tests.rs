use super::*;

fn clean(config: &Config) -> Report {
    let report = run(config);
    if let Some(violation) = &report.violation {
        panic!("seed {}: {violation}\nreplay: pitstop-simulate --seed {} --trace", config.seed, config.seed);
    }
    report
}

#[test]
fn many_small_labs_keep_every_invariant() {
    let mut total = Report::default();
    for seed in 0..40 {
        total.add(&clean(&Config::short(seed)));
    }
    assert!(total.handovers > 300, "the simulated world hardly works: {total:?}");
    assert!(total.kills > 60 && total.liveness_checks > 1_000, "too little to mean anything: {total:?}");
    // Some are rare; that all of them strike is seen in longer runs.
    let never: Vec<&str> = dice::Chance::ALL
        .iter()
        .filter(|c| c.is_fault() && !total.faults.contains_key(c.name()))
        .map(|c| c.name())
        .collect();
    assert!(never.len() < 4, "faults that never struck: {never:?}");
}

#[test]
fn every_event_in_every_state_keeps_the_rows_whole() {
    let probing = |seed| Config { probe: true, ..Config::short(seed) };
    let mut total = Report::default();
    for seed in 0..12 {
        total.add(&clean(&probing(seed)));
    }
    let met = total.probed.all().filter(|(_, _, n)| *n > 0).count();
    assert!(met > 800, "only {met} pairs were put together");
    // A probe that finds nothing where a fence is missing would find nothing anywhere.
    let blind = |seed| Config { without: Some(Fence::Nonce), ..probing(seed) };
    let found: Vec<String> = (0..4).filter_map(|seed| run(&blind(seed)).violation).collect();
    assert!(found.iter().any(|what| what.contains("without its token")), "{found:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let trace = |seed| {
        let report = run(&Config { trace: true, ..Config::short(seed) });
        report.trace.iter().map(|e| serde_json::to_string(e).unwrap()).collect::<Vec<_>>()
    };
    let (first, second) = (trace(7), trace(7));
    assert!(first.len() > 500, "{} happenings", first.len());
    assert!(first == second, "the same seed gave another run");
}

#[test]
fn a_trace_that_was_written_is_read_again() {
    let report = run(&Config { trace: true, ..Config::short(8) });
    for entry in &report.trace {
        let json = serde_json::to_string(entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), *entry);
    }
}

#[test]
fn what_is_left_out_changes_nothing_else() {
    let config = Config { trace: true, ..Config::short(11) };
    let whole = run(&config);
    let last = *whole.happened.last().unwrap();
    let fewer = run(&Config { left_out: vec![last], ..config });
    assert!(!fewer.happened.contains(&last));
    let before = whole.happened.len() - 1;
    assert_eq!(whole.happened[..before], fewer.happened[..before]);
}

#[test]
fn a_larger_lab_keeps_every_invariant() {
    clean(&Config { machines: 12, clients: 20, ..Config::short(3) });
}

#[test]
fn each_fence_taken_away_is_caught() {
    for fence in Fence::ALL {
        let caught = (0..1_000).find(|seed| {
            let config = Config { without: Some(fence), ..Config::short(*seed) };
            run(&config).violation.is_some()
        });
        assert!(caught.is_some(), "without the fence `{}` no violation was found", fence.name());
    }
}

#[test]
fn a_violation_shrinks_to_what_it_needs() {
    let broken = |seed| {
        let small = Config { machines: 2, clients: 2, span: HOUR / 2, ..Config::short(seed) };
        Config { without: Some(Fence::MayLandUntil), ..small }
    };
    let seed = (0..400).find(|seed| run(&broken(*seed)).violation.is_some()).unwrap();
    let whole = run(&Config { trace: true, ..broken(seed) });
    let (config, report) = shrink(&broken(seed), |_, _| {}).unwrap();
    assert!(report.violation.is_some());
    assert!(report.happened.len() < whole.happened.len(), "{} left", report.happened.len());
    assert_eq!(run(&config).violation, report.violation, "a shrunk run is a run like any other");
}

/// Every line of `seeds.txt`.
#[test]
fn what_once_went_wrong_does_again() {
    let number = |word: Option<&str>| word.and_then(|w| w.parse::<u64>().ok()).unwrap();
    let lines = include_str!("seeds.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    let mut seeds = 0;
    for line in lines {
        let mut words = line.split_whitespace();
        let (seed, machines, clients, hours) =
            (number(words.next()), number(words.next()), number(words.next()), number(words.next()));
        let (machines, clients) = (machines as usize, clients as usize);
        clean(&Config { machines, clients, span: hours * HOUR, ..Config::short(seed) });
        seeds += 1;
    }
    assert!(seeds > 10, "{seeds} seeds");
}

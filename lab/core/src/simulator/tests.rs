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
    for seed in 0..60 {
        total.add(&clean(&Config::short(seed)));
    }
    assert!(total.handovers > 100, "the simulated world hardly works: {total:?}");
    assert!(total.kills > 20 && total.faults.len() > 10, "too few faults to mean anything: {total:?}");
}

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

#[test]
fn the_same_seed_is_the_same_run() {
    let config = Config { trace: true, ..Config::short(7) };
    assert_eq!(run(&config).trace, run(&config).trace);
}

#[test]
fn a_larger_lab_keeps_every_invariant() {
    clean(&Config { machines: 12, clients: 20, ..Config::short(3) });
}

#[test]
fn each_fence_taken_away_is_caught() {
    for fence in Fence::ALL {
        let caught = (0..400).find(|seed| {
            let config = Config { without: Some(fence), ..Config::short(*seed) };
            run(&config).violation.is_some()
        });
        assert!(caught.is_some(), "without the fence `{}` no violation was found", fence.name());
    }
}

//! Class, range and machine, as tables: what each says and what comes out.

use super::{good, machine, parse};

const REST: &str = "boot.pxe = {}\nready.agent = {}\n";

/// A lab of one class and one range `m[1-2]`, with what each of the three layers says.
fn lab(class: &str, range: &str, own: &str) -> pitstop_core::inventory::Inventory {
    good(&format!(
        "format = 1\n[class.c]\n{REST}{class}\n[machine.\"m[1-2]\"]\nclass = \"c\"\n{range}\n[machine.m2]\n{own}\n"
    ))
}

#[test]
fn the_nearest_layer_wins_by_path() {
    let console = "console = {}\n";
    for (class, range, own, of_range, of_machine) in [
        ("1s", "2s", "3s", 2_000, 3_000),
        ("1s", "2s", "", 2_000, 2_000),
        ("1s", "", "3s", 1_000, 3_000),
        ("", "2s", "", 2_000, 2_000),
    ] {
        let say = |text: &str| {
            if text.is_empty() { String::new() } else { format!("timeout.power = \"{text}\"\n") }
        };
        let lab = lab(&format!("power.sim = {{}}\n{console}{}", say(class)), &say(range), &say(own));
        assert_eq!(machine(&lab, "m1").limits.power_ms, of_range, "{class} {range} {own}");
        assert_eq!(machine(&lab, "m2").limits.power_ms, of_machine, "{class} {range} {own}");
    }
}

#[test]
fn the_same_driver_merges_and_another_replaces() {
    for (class, own, driver, fields) in [
        (
            "power.bmc = { address = \"a-{n}\", cipher = 3 }",
            "power.bmc.cipher = 17",
            "bmc",
            r#"{"address":"a-2","cipher":17}"#,
        ),
        (
            "power.bmc = { address = \"a-{n}\", cipher = 3 }",
            "power.sim.disk = \"1K\"",
            "sim",
            r#"{"disk":1024}"#,
        ),
        ("power.bmc = { address = \"a-{n}\" }", "note = \"x\"", "bmc", r#"{"address":"a-2"}"#),
        (
            "power.sim = { faults = [\"panic\", \"lost\"] }",
            "power.sim.faults = [\"late:1\"]",
            "sim",
            r#"{"faults":["late:1"]}"#,
        ),
    ] {
        let lab = lab(&format!("{class}\nconsole = {{}}"), "", own);
        let power = &machine(&lab, "m2").legs[0].driver;
        assert_eq!(power.driver, driver);
        assert_eq!(serde_json::to_string(&power.fields).unwrap(), fields, "{class} + {own}");
    }
}

#[test]
fn consoles_are_added_by_name_and_taken_away_together() {
    let class = "power.sim = {}\nconsole.main.serial = { path = \"/dev/ser/{name}\" }";
    for (own, names) in [
        ("", "main"),
        ("console.m7.serial = { path = \"/dev/m7\" }", "m7 main"),
        ("console.main.sim = {}", "main"),
        ("console = {}", ""),
    ] {
        let lab = lab(class, "", own);
        let consoles = &machine(&lab, "m2").consoles;
        let mut found: Vec<&str> = consoles.keys().map(String::as_str).collect();
        found.sort_by_key(|name| std::cmp::Reverse(name.len() == 2));
        assert_eq!(found.join(" "), names, "{own}");
        assert_eq!(machine(&lab, "m1").consoles.len(), 1, "{own} changed its neighbour");
    }
}

#[test]
fn a_machine_may_leave_the_class_of_its_range() {
    let lab = good(
        "format = 1\n[class.c]\npower.sim = {}\nconsole = {}\nboot.sim = {}\nready.agent = {}\nimage = \"c\"\n\
         [class.d]\npower.qemu = {}\nconsole = {}\nboot.direct = {}\nready.agent = {}\nimage = \"d\"\n\
         [machine.\"m[1-2]\"]\nclass = \"c\"\nlocation = \"shelf {n}\"\n[machine.m2]\nclass = \"d\"\n",
    );
    let (first, second) = (machine(&lab, "m1"), machine(&lab, "m2"));
    assert_eq!((first.image.as_deref(), second.image.as_deref()), (Some("c"), Some("d")));
    assert_eq!(second.location.as_deref(), Some("shelf 2"));
    assert_eq!(second.boot.driver, "direct");
}

#[test]
fn zeroes_of_a_range_are_kept() {
    let text = "power.sim = {}\nconsole = {}\nboot.sim = {}\nready.agent = {}\n";
    let lab = good(&format!("format = 1\n[machine.\"a[08-11]\"]\n{text}[machine.\"b[8-11,20]x\"]\n{text}"));
    let names: Vec<&str> = lab.machines.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["a08", "a09", "a10", "a11", "b10x", "b11x", "b20x", "b8x", "b9x"]);
    assert_eq!(machine(&lab, "b20x").n, Some(20));
}

#[test]
fn an_error_in_a_class_is_told_once() {
    let errors = parse(
        "format = 1\n[class.c]\npower.sim = { x = 1 }\nconsole = {}\nboot.sim = {}\nready.agent = {}\n\
         [machine.\"m[1-500]\"]\nclass = \"c\"\n[machine.n]\nclass = \"c\"\n",
    )
    .unwrap_err();
    assert_eq!((errors.errors.len(), errors.more), (1, 0), "{errors}");
}

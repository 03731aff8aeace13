use super::script;

#[test]
fn what_a_refusal_quotes_cannot_become_a_command() {
    let machine = pitstop_wire::MachineName::new("m1").unwrap();
    let text = script::refused(&machine, "token\nkernel http://evil/ ${net0/mac} || shell");
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(!text.contains('$') && text.lines().skip(1).all(|l| !l.starts_with("kernel")));
}

//! pitstop.
fn main() {}

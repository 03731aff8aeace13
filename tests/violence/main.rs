//! An oracle that cannot object proves nothing: each thing it looks for is
//! shown to it here, made up. The violence itself is `program.rs`, run by
//! `tests/violence/run`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code, reason = "the program uses the rest")]

mod book;
mod judge;
mod selftest;

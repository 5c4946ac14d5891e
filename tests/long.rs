//! Checks that take minutes or a whole machine, by name.

fn main() {}

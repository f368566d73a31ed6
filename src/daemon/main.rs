//! rgun.
fn main() {}

//! Tests the protocol over a real socket, and compares the types with the definitions.

mod definitions;
mod protocol;

//! The protocol over a real socket, and the types against the definitions of the interfaces.

mod definitions;
mod protocol;

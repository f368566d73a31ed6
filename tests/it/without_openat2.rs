//! Files where a seccomp filter refuses `openat2(2)`, as under the packaged unit: the tests of the
//! other modules about files, again.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::{env, io};

use nix::errno::Errno;

#[test]
fn files_are_served_where_openat2_is_unknown() {
    // As systemd's RestrictSUIDSGID=.
    assert_tests_pass(Errno::ENOSYS, &["static_files::", "static_life::", "sendfile::"]);
}

#[test]
fn files_are_served_where_openat2_is_not_permitted() {
    // As container runtimes that do not know the call.
    assert_tests_pass(Errno::EPERM, &["static_files::", "sendfile::"]);
}

/// Runs the tests whose names contain one of these texts, with a filter that answers `openat2(2)`
/// with this error.
fn assert_tests_pass(errno: Errno, names: &[&str]) {
    let mut command = Command::new(env::current_exe().expect("this test"));
    command.args(names);
    refuse_openat2(&mut command, errno);
    let output = command.output().expect("this test runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errno}: {text}{errors}");
    assert!(!text.contains("running 0 tests"), "{text}");
}

/// One instruction of a filter (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// A filter (`struct sock_fprog`).
#[repr(C)]
struct Program {
    len: u16,
    instructions: *const Instruction,
}

/// Makes the kernel answer `openat2(2)` with this error, in the command and its descendants.
#[expect(unsafe_code, reason = "std and nix have no seccomp(2)")]
fn refuse_openat2(command: &mut Command, errno: Errno) {
    const PR_SET_SECCOMP: i32 = 22;
    const SECCOMP_MODE_FILTER: usize = 2;
    const OPENAT2: u32 = 437;
    const LOAD: u16 = 0x20;
    const IS_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const FAIL: u32 = 0x0005_0000;
    const ALLOW: u32 = 0x7fff_0000;
    // SAFETY: the declaration of prctl(2), with its arguments as integers.
    unsafe extern "C" {
        fn prctl(option: i32, ...) -> i32;
    }
    let instruction = |code, if_false, value| Instruction { code, if_true: 0, if_false, value };
    let filter = [
        // The number of the call is the first word of `struct seccomp_data`.
        instruction(LOAD, 0, 0),
        instruction(IS_EQUAL, 1, OPENAT2),
        instruction(RETURN, 0, FAIL | u32::try_from(errno as i32).expect("a positive number")),
        instruction(RETURN, 0, ALLOW),
    ];
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe, with a
    // program whose instructions the closure owns; nothing allocates.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_no_new_privs()?;
            let program = Program { len: 4, instructions: filter.as_ptr() };
            match prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, std::ptr::from_ref(&program)) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

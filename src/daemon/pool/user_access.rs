//! Tests which paths a user can access, with access(2) in a process of that user. Mode bits do not
//! suffice, because access control lists, read-only file systems and security modules count too.
//!
//! # Why `unsafe`
//! The process is forked and never executes a program. After the fork it switches to the user,
//! tests the paths, and writes the results to a pipe. It makes only async-signal-safe calls
//! (signal-safety(7)); everything that they need is allocated before the fork.
#![expect(unsafe_code, reason = "pre_exec")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, pipe2, write};

use super::identity::Credentials;

/// Tests each access as the user. Returns an errno for each, 0 for success.
///
/// # Errors
/// The user's process cannot be started.
pub fn test_access(user: &Credentials, steps: &[(PathBuf, AccessFlags)]) -> io::Result<Vec<i32>> {
    let paths: Vec<(CString, AccessFlags)> = steps
        .iter()
        .map(|(path, flags)| Ok((CString::new(path.as_os_str().as_bytes())?, *flags)))
        .collect::<Result<_, std::ffi::NulError>>()?;
    let (read, written) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let user = user.clone();
    // The program is never executed, because the closure always fails.
    let mut command = Command::new("/proc/self/exe");
    let written = std::sync::Arc::new(written);
    let answers = std::sync::Arc::clone(&written);
    // SAFETY: the closure makes system calls only and allocates nothing: paths and groups were made
    // before, and an `io::Error` of a number needs no memory.
    unsafe {
        command.pre_exec(move || {
            user.assume()?;
            for (path, flags) in &paths {
                let answer = access(path.as_c_str(), *flags).err().map_or(0, |errno| errno as i32);
                // A write of up to PIPE_BUF bytes is atomic (pipe(7)).
                write(answers.as_fd(), &answer.to_ne_bytes())?;
            }
            Err(io::Error::from_raw_os_error(Errno::ECANCELED as i32))
        });
    }
    // A thread reads the results, because they may exceed the pipe's buffer.
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        File::from(read).read_to_end(&mut bytes).map(|_| bytes)
    });
    let outcome = command.spawn();
    drop((command, written));
    let bytes = reader.join().map_err(|_| io::Error::other("the reader panicked"))??;
    match outcome {
        Err(error) if error.raw_os_error() == Some(Errno::ECANCELED as i32) => {}
        Err(error) => return Err(error),
        Ok(_) => return Err(io::Error::other("the process of the access test was executed")),
    }
    Ok(bytes
        .chunks_exact(4)
        .map(|answer| i32::from_ne_bytes([answer[0], answer[1], answer[2], answer[3]]))
        .collect())
}

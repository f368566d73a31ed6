//! The state word of a record: claim against revoke, mark_done against take.

use loom::sync::Arc;
use loom::thread;

use super::check;
use crate::state::{self, Claim};
use crate::sync::{AtomicU32, Ordering};

#[test]
fn claim_or_revoke_wins_and_a_claim_sees_the_frame() {
    check(None, || {
        let record = Arc::new((AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)));
        let worker = thread::spawn({
            let record = record.clone();
            move || {
                let (frame, state, head) = &*record;
                if head.load(Ordering::Acquire) == 0 {
                    return None;
                }
                let claim = state::claim(state).unwrap();
                (claim == Claim::Claimed).then(|| frame.load(Ordering::Relaxed))
            }
        });
        let (frame, state, head) = &*record;
        frame.store(7, Ordering::Relaxed);
        state.store(state::READY, Ordering::Relaxed);
        head.store(1, Ordering::Release);
        let revoked = state::revoke(state);
        let claimed = worker.join().unwrap();
        assert!(claimed.is_none_or(|frame| frame == 7));
        assert!(!(revoked && claimed.is_some()), "claimed and revoked");
        assert!(revoked || claimed.is_some(), "neither claimed nor revoked");
        assert!(!state::revoke(state), "revoked twice");
    });
}

#[test]
fn mark_done_and_take_agree() {
    check(None, || {
        let record = Arc::new((AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)));
        let daemon = thread::spawn({
            let record = record.clone();
            move || {
                let (frame, state, head) = &*record;
                (head.load(Ordering::Acquire) != 0)
                    .then(|| (state::take(state), frame.load(Ordering::Relaxed)))
            }
        });
        let (frame, state, head) = &*record;
        frame.store(7, Ordering::Relaxed);
        state.store(state::READY, Ordering::Relaxed);
        head.store(1, Ordering::Release);
        let is_marked = state::mark_done(state);
        match daemon.join().unwrap() {
            Some((taken, frame)) => assert_eq!((taken == state::DONE, frame), (is_marked, 7)),
            None => assert!(is_marked),
        }
    });
}

/// A worker's threads claim under a mutex; the state word must be correct even without the mutex.
#[test]
fn a_record_is_claimed_at_most_once() {
    check(None, || {
        let state = Arc::new(AtomicU32::new(state::READY));
        let claimants = [(); 2].map(|()| {
            let state = state.clone();
            thread::spawn(move || state::claim(&state) == Ok(Claim::Claimed))
        });
        let revoked = state::revoke(&state);
        let claims = claimants.into_iter().map(|claimant| claimant.join().unwrap());
        assert_eq!(claims.map(u32::from).sum::<u32>() + u32::from(revoked), 1);
    });
}

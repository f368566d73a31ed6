use super::*;
use crate::control::{Request, WorkerStacks};

fn status_reply() -> StatusReply {
    StatusReply {
        version: "1.2.3".to_owned(),
        pid: 4711,
        status: "3/4 workers ready, 1 booting; 5/8 busy, queue 2, wait p95 40 ms, generation 12".to_owned(),
        generation: 12,
        pending_generation: None,
        draining: false,
        unavailable: None,
        workers_ready: 3,
        workers_desired: 4,
        running: 5,
        queued: 2,
        slots: 8,
        wait_p95_usec: 40_000,
        responses: 123_456,
        failed_responses: 7,
        workers_spawned: 20,
        boot_failures: 1,
        worker_crashes: 2,
    }
}

#[test]
fn status_has_a_line_for_each_group_of_numbers() {
    assert_eq!(
        status(&status_reply()),
        "\
status:      3/4 workers ready, 1 booting; 5/8 busy, queue 2, wait p95 40 ms, generation 12
generation:  12
workers:     3 of 4 ready
requests:    5 running, 2 queued; 8 slots
wait p95:    40 ms
responses:   123456, 7 failed
faults:      2 crashes of workers, 1 failed boots
drained:     no
daemon:      rgun 1.2.3, process 4711
"
    );
}

#[test]
fn status_shows_a_reload_and_a_drain() {
    let text = status(&StatusReply { pending_generation: Some(13), draining: true, ..status_reply() });
    assert!(text.contains("\ngeneration:  12 (13 is booting)\n"), "{text}");
    assert!(text.contains("\ndrained:     health checks get 503 until rgun drain --undo\n"), "{text}");
}

#[test]
fn workers_are_aligned_in_columns() {
    let ready = WorkerEntry {
        number: Some(0),
        pid: Some(99_120),
        generation: 12,
        state: "ready".to_owned(),
        state_usec: 7_500_000_000,
        running: 3,
        slots: 4,
        websockets: 0,
        responses: 61_000,
        failed_responses: 3,
        memory: Some(180 << 20),
    };
    let booting = WorkerEntry {
        number: Some(11),
        pid: None,
        state: "booting".to_owned(),
        state_usec: 1_540_000,
        running: 0,
        slots: 0,
        responses: 0,
        failed_responses: 0,
        memory: None,
        ..ready.clone()
    };
    let zygote = WorkerEntry {
        number: None,
        pid: Some(99_100),
        state: "standby".to_owned(),
        running: 0,
        slots: 0,
        responses: 0,
        failed_responses: 0,
        ..ready.clone()
    };
    assert_eq!(
        workers(&WorkersReply { workers: vec![ready, booting, zygote] }),
        "\
WORKER    PID  GENERATION  STATE       FOR  RUNNING  WEBSOCKETS  RESPONSES  FAILED   MEMORY
     0  99120          12  ready    2h 05m      3/4           0      61000       3  180 MiB
    11      -          12  booting   1.5 s      0/0           0          0       0        -
zygote  99100          12  standby  2h 05m      0/0           0          0       0  180 MiB
"
    );
    assert_eq!(workers(&WorkersReply { workers: Vec::new() }), "no worker runs\n");
}

#[test]
fn requests_show_their_worker_and_how_many_are_left_out() {
    let running = Request {
        id: "k2f1".to_owned(),
        method: "GET".to_owned(),
        path: "/export".to_owned(),
        client: Some("192.0.2.7".to_owned()),
        state: RequestState::Running,
        worker: Some(2),
        elapsed_usec: 61_200_000,
    };
    let queued = Request {
        id: "k2f2".to_owned(),
        method: "OPTIONS".to_owned(),
        path: "/".to_owned(),
        client: None,
        state: RequestState::Queued,
        worker: None,
        elapsed_usec: 850,
    };
    let expected = "\
ELAPSED  STATE    WORKER  CLIENT     METHOD   PATH     ID
 1m 01s  running       2  192.0.2.7  GET      /export  k2f1
 850 us  queued        -  -          OPTIONS  /        k2f2
";
    let reply = RequestsReply { requests: vec![running, queued], total: 2 };
    assert_eq!(requests(&reply), expected);
    let reply = RequestsReply { total: 900, ..reply };
    assert_eq!(requests(&reply), format!("{expected}2 of 900 requests, the longest\n"));
    let reply = RequestsReply { requests: Vec::new(), total: 0 };
    assert_eq!(requests(&reply), "no request is queued or running\n");
}

#[test]
fn stacks_are_below_the_number_of_their_worker() {
    let worker = |worker, stacks: Option<&str>| WorkerStacks {
        worker,
        pid: Some(7),
        stacks: stacks.map(str::to_owned),
    };
    let reply = StacksReply {
        workers: vec![
            worker(0, Some("Thread 0x1 (most recent call first):\n  File \"a.py\"\n")),
            worker(1, None),
        ],
    };
    assert_eq!(
        stacks(&reply),
        "\
worker 0, process 7:
Thread 0x1 (most recent call first):
  File \"a.py\"

worker 1, process 7:
no answer; C code may hold the GIL, or the worker has just exited
"
    );
}

#[test]
fn durations_are_shown_in_their_largest_units() {
    for (micros, text) in [
        (0, "0 us"),
        (999, "999 us"),
        (1000, "1 ms"),
        (999_999, "999 ms"),
        (1_000_000, "1.0 s"),
        (59_900_000, "59.9 s"),
        (60_000_000, "1m 00s"),
        (3_599_000_000, "59m 59s"),
        (3_600_000_000, "1h 00m"),
        (90_000_000_000, "1d 01h"),
    ] {
        assert_eq!(duration(micros), text);
    }
}

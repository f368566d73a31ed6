//! Values that do not fit into the first message to a worker.

use super::*;

#[test]
fn long_texts_are_refused_and_shown_shortened() {
    let case = Case::new();
    let path = |len: usize| format!("root_path = \"/{}\"\n", "a".repeat(len - 1));
    assert!(case.with(&path(2048)).is_ok());
    let error = case.with(&path(2049)).unwrap_err();
    assert!(error.contains("has 2049 bytes; the maximum is 2048"), "{error}");
    assert!(error.contains("app.root_path = \"/aaa") && error.contains("aaa…: "), "{error}");
    assert!(error.len() < 1000, "{error}");
    let hook = format!("[hooks]\npost_fork = \"hooks:{}\"\n", "a".repeat(2048));
    let error = case.with(&hook).unwrap_err();
    assert!(error.contains("hooks.post_fork") && error.contains("has 2054 bytes"), "{error}");
}

#[test]
fn pythonpath_of_thousands_of_directories_is_refused() {
    let case = Case::new();
    let paths = |count: usize| format!("pythonpath = [{}]\n", "\"/srv/lib\", ".repeat(count));
    assert!(case.with(&paths(1000)).is_ok());
    let error = case.with(&paths(5000)).unwrap_err();
    assert!(error.contains("has 5000 directories of 60000 bytes in all; the maximum is 16384"), "{error}");
    assert!(error.contains(".pth file") && error.len() < 1000, "{error}");
}

#[test]
fn more_addresses_than_the_maximum_are_refused() {
    let case = Case::new();
    let addresses = |count: usize| {
        let texts: Vec<_> = (0..count).map(|n| format!("\"127.0.0.1:{}\"", 8000 + n)).collect();
        format!("[listen]\nbind = [{}]\n", texts.join(", "))
    };
    assert!(case.with(&addresses(64)).is_ok());
    let error = case.with(&addresses(65)).unwrap_err();
    assert!(
        error.contains("listen.bind = ")
            && error.contains("there are 65 addresses to listen on; the maximum is 64"),
        "{error}"
    );
    let with_table = format!("{}[listen.admin]\nbind = \"127.0.0.1:9000\"\n", addresses(64));
    assert!(case.with(&with_table).unwrap_err().contains("there are 65 addresses"));
}

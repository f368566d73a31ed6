//! Values that do not fit into the first message to a worker.

use super::*;

#[test]
fn long_texts_are_refused_and_shown_shortened() {
    let case = Case::new();
    let path = |len: usize| format!("root_path = \"/{}\"\n", "a".repeat(len - 1));
    assert!(case.with(&path(4096)).is_ok());
    let error = case.with(&path(4097)).unwrap_err();
    assert!(error.contains("has 4097 bytes; the maximum is 4096"), "{error}");
    assert!(error.contains("app.root_path = \"/aaa") && error.contains("aaa…: "), "{error}");
    assert!(error.len() < 1000, "{error}");
    let hook = format!("[hooks]\npost_fork = \"hooks:{}\"\n", "a".repeat(4096));
    let error = case.with(&hook).unwrap_err();
    assert!(error.contains("hooks.post_fork") && error.contains("has 4102 bytes"), "{error}");
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

"""Whole lines are logged at once: also those that a worker prints right before it is killed."""

import pytest

CASES = [("/print", "printed"), ("/write", "written"), ("/begin", "whole"), ("/fork", "forked")]


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("records", ["true", "false"])
@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_line_is_logged_before_the_process_is_killed(start, tmp_path, interface, records, preload):
    config = tmp_path / "rgun.toml"
    config.write_text(f"log.records = {records}\n")
    flags = ("--config", config, "--workers", "1", *(["--preload"] if preload else []))
    daemon = start(f"last_words:{interface}", flags=flags).wait_ready()
    for path, word in CASES:
        response = daemon.get(f"{path}?x{path}")
        assert response.status == (200 if path == "/fork" else 502)
        daemon.wait_for_log(f"{word} x{path}")

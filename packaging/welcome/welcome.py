"""The page a fresh installation greets with: proof that socket, daemon, worker and Python work together.

The shipped /etc/rgun/rgun.toml points here; the operator's own application replaces it. One file, the
standard library only, Python 3.9 and newer. It reads nothing and writes nothing: what it shows comes from
the request and from the interpreter it runs in.
"""

import html
import platform
import sys

CONFIG = "/etc/rgun/rgun.toml"

EXAMPLE = """\
[app]
target = "mysite.wsgi:application"
directory = "/srv/mysite"
python = "/srv/mysite/.venv/bin/python"
"""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>rgun works</title>
<style>
  :root {{ color-scheme: light dark; --line: #8884; --mark: #b4451f; }}
  body {{ font: 17px/1.55 system-ui, sans-serif; max-width: 42rem;
         margin: 12vh auto 4rem; padding: 0 1.25rem; }}
  h1 {{ font-size: 2.4rem; line-height: 1.1; margin: 0 0 .5rem; letter-spacing: -.02em; }}
  h1 b {{ color: var(--mark); }}
  p.lead {{ margin-top: 0; opacity: .8; }}
  dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 2rem 0;
       padding: 1rem 0; border: solid var(--line); border-width: 1px 0; }}
  dt {{ opacity: .7; }} dd {{ margin: 0; overflow-wrap: anywhere; }}
  ol {{ padding-left: 1.25rem; }} li {{ margin: 1rem 0; }}
  code, pre {{ font: .9em/1.5 ui-monospace, monospace; }}
  pre {{ border-left: 3px solid var(--mark); padding: .25rem 0 .25rem 1rem; margin: .5rem 0;
        overflow-x: auto; }}
</style>
</head>
<body>
<h1><b>rgun</b> works.</h1>
<p class="lead">This page came out of a Python worker. The next one can be yours.</p>
<dl>
  <dt>Python</dt><dd>{implementation} {version} <code>{executable}</code></dd>
  <dt>Server</dt><dd>{software}</dd>
  <dt>Configuration</dt><dd><code>{config}</code></dd>
</dl>
<ol>
  <li>Say in <code>{config}</code> where your application is:<pre>{example}</pre></li>
  <li>Ask whether it is sound, then start it:<pre>rgun check
systemctl restart rgun</pre></li>
  <li>Read what happened, and the manual:<pre>journalctl -u rgun
man rgun.toml</pre></li>
</ol>
</body>
</html>
"""

NOT_FOUND = "Not found. This is rgun's welcome page; it has one address, /.\n"


def application(environ, start_response):
    """Answer / with the page and everything else with 404 (PEP 3333)."""
    if environ.get("PATH_INFO", "") not in ("", "/"):
        return reply(environ, start_response, "404 Not Found", "text/plain", NOT_FOUND)
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        allowed = [("Allow", "GET, HEAD")]
        text = "This page can only be read: GET or HEAD.\n"
        return reply(environ, start_response, "405 Method Not Allowed", "text/plain", text, allowed)
    facts = {
        "implementation": platform.python_implementation(),
        "version": platform.python_version(),
        "executable": sys.executable or "unknown",
        "software": environ.get("SERVER_SOFTWARE", "rgun"),
        "config": CONFIG,
        "example": EXAMPLE,
    }
    page = PAGE.format(**{name: html.escape(value) for name, value in facts.items()})
    # The page tells versions and paths of the machine: no cache keeps it, no other site frames it.
    headers = [
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ]
    return reply(environ, start_response, "200 OK", "text/html", page, headers)


def reply(environ, start_response, status, kind, text, headers=()):
    """Send text; a HEAD gets the same head, Content-Length included, and no body (RFC 9110 section 9.3.2)."""
    body = text.encode("utf-8")
    start_response(
        status,
        [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))), *headers],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

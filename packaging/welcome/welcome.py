"""The welcome page of a fresh installation: it shows that socket, daemon, worker and Python work together.

The packaged /etc/rgun/rgun.toml names this application until the operator sets another one. It needs Python
3.9 or newer and its standard library, and shows facts of the request and of the interpreter.
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
<p class="lead">A Python worker has generated this page. The next one can be yours.</p>
<dl>
  <dt>Python</dt><dd>{implementation} {version} <code>{executable}</code></dd>
  <dt>Server</dt><dd>{software}</dd>
  <dt>Configuration</dt><dd><code>{config}</code></dd>
</dl>
<ol>
  <li>Name your application in <code>{config}</code>:<pre>{example}</pre></li>
  <li>Check it, then start it:<pre>rgun check
systemctl restart rgun</pre></li>
  <li>Read the log and the manual:<pre>journalctl -u rgun
man rgun.toml</pre></li>
</ol>
</body>
</html>
"""

NOT_FOUND = "Not found. This is rgun's welcome page; it has one address, /.\n"


def application(environ, start_response):
    """Answers / with the page and other paths with 404 (PEP 3333)."""
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
    # The page shows versions and paths of the machine: it must not be cached or framed.
    headers = [
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ]
    return reply(environ, start_response, "200 OK", "text/html", page, headers)


def reply(environ, start_response, status, kind, text, headers=()):
    """Sends text; a HEAD gets the same head with Content-Length, and no body (RFC 9110 section 9.3.2)."""
    body = text.encode("utf-8")
    start_response(
        status,
        [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))), *headers],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

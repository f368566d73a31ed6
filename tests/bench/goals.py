"""The goals of the benchmarks, which `report` compares with the results."""

from workloads import UVICORNS

# Goals: workload, figure, relation, number, and the row that the figure is divided by before the
# comparison (None: the figure is compared as it is; several rows: the best of them). A sixth
# element names the row that the goal is about, if not `rgun`.
GOALS = (
    ("hello", "requests_per_s", ">=", 1.4, "granian"),
    ("hello", "cpu_us_per_request", "<=", 7, None),
    ("hello-1-both-cores", "requests_per_s", ">=", 1.2, "bjoern"),
    ("asgi-hello", "requests_per_s", ">=", 1.8, "granian"),
    ("asgi-hello", "requests_per_s", ">=", 2, "uvicorn"),
    ("asgi-hello", "cpu_us_per_request", "<=", 8, None),
    ("asgi-sse", "requests_per_s", ">=", 1.5, ("uvicorn", "granian")),
    ("asgi-websocket-echo", "messages_per_s", ">=", 1, (*UVICORNS, "granian")),
    ("rss-websocket", "plain_kib", "<=", 1, UVICORNS),
    ("rss-websocket", "deflate_kib", "<=", 1, UVICORNS),
    ("tls-hello", "requests_per_s", ">=", 1.5, "granian"),
    # rustls alone costs more than 1 / 1.5 of granian's processor time.
    ("tls-handshake", "cpu_us_per_request", "<=", 1.1, "limit"),
    ("static-10kib", "requests_per_s", ">=", 1.5, "granian"),
    ("static-10kib", "requests_per_s", ">=", 0.8, "nginx"),
    ("static-1mib", "requests_per_s", ">=", 1.5, "granian"),
    ("static-1mib", "requests_per_s", ">=", 0.8, "nginx"),
    ("http2-hello", "requests_per_s", ">=", 1.5, "granian"),
    ("django-json", "requests_per_s", ">=", 2, "gunicorn-gthread"),
    ("django-json", "requests_per_s", ">=", 1.15, "granian"),
    ("upload", "mib_per_s", ">=", 1, "gunicorn-sync"),
    ("upload", "mib_per_s", ">=", 1, "gunicorn-gthread"),
    ("download", "mib_per_s", ">=", 1, "gunicorn-sync"),
    ("download", "mib_per_s", ">=", 1, "gunicorn-gthread"),
    ("rss-idle", "main_rss_mib", "<=", 12, None),
    ("rss-idle", "django_pss_mib", "<=", 1, "gunicorn-preload", "rgun-preload"),
    ("rss-idle", "django_pss_mib", "<=", 1, "gunicorn-sync", "rgun-preload-modules"),
    ("death", "over_boot_ms", "<=", 50, None),
    ("death", "replaced_ms", "<=", 100, None, "rgun-preload"),
)

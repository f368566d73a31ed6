"""A small Flask application."""

import io

from flask import Flask, Response, jsonify, request, send_file, session, stream_with_context

application = Flask(__name__)
application.secret_key = "for tests"


@application.route("/")
def index():
    """Returns HTML."""
    return "<h1>Flask</h1>"


@application.route("/form", methods=["POST"])
def form():
    """Reads form fields and an uploaded file."""
    return jsonify(
        fields=request.form.to_dict(), size=len(request.files["file"].read()), args=request.args.to_dict()
    )


@application.route("/json", methods=["POST"])
def echo():
    """Echoes JSON."""
    return jsonify(request.get_json())


@application.route("/stream")
def stream():
    """Streams a generator that uses the request."""

    def chunks():
        for index in range(3):
            yield f"{index} {request.path}\n"

    return Response(stream_with_context(chunks()), mimetype="text/plain")


@application.route("/file")
def file():
    """Sends a file with support for ranges and conditional requests."""
    return send_file(__file__, conditional=True)


@application.route("/memory")
def memory():
    """Sends an object without a descriptor."""
    return send_file(io.BytesIO(b"m" * 100_000), mimetype="text/plain")


@application.route("/count")
def count():
    """Counts in the session's cookie."""
    session["n"] = session.get("n", 0) + 1
    return str(session["n"])


@application.route("/error")
def error():
    """Raises; Flask answers 500."""
    raise ValueError("flask view")

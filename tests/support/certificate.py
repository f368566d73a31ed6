"""Self-signed certificates, made by openssl."""

import subprocess


def make_certificate(directory, name="127.0.0.1"):
    """Makes `tls.crt` and `tls.key` for a host name, with a key on P-256; returns both paths."""
    directory.mkdir(parents=True, exist_ok=True)
    certificate, key = directory / "tls.crt", directory / "tls.key"
    kind = "IP" if name.replace(".", "").isdigit() else "DNS"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName={kind}:{name}"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return certificate, key

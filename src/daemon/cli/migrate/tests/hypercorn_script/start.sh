cd /opt/app
/opt/app/bin/hypercorn app.main:app -b '[::]:8443' -w 4 -k uvloop --certfile cert.pem --keyfile key.pem -u 1000 --quic-bind :443

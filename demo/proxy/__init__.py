"""The development proxy: a stand-in for linkerd2-proxy on machines that have none. For demos only.

It balances, encrypts and counts by connection: no HTTP, no policy, no routes, no retries. What it shares with the real one:
the LINKERD2_PROXY_* variables and their strict formats, the exit codes, transparent interception, mutual TLS 1.3 with the SVID
and an exact check of the peer's SPIFFE ID, the admin port's /live, /ready and metric names, and the drain on SIGTERM.
"""

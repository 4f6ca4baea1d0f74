"""The network: the only code that touches sockets.

    stream       one connection while asyncio owns it
    mover        threads that move bodies between sockets, files and sinks
    transfer     what a mover does for one body
    limiter      rate limits shared by movers
    http_client, http_server   HTTP/1.1 over both
    tls          TLS settings
    link         the control link
"""
